"""The promises of (IA)^3: it starts as the base model, its delta is its effect, its file has the names webui reads."""

import torch
from torch import nn

from sdtune_ia3.config import Ia3Options
from sdtune_ia3.method import Ia3Layer


def layer() -> Ia3Layer:
    return Ia3Layer(nn.Linear(4, 3, bias=False))


def test_a_fresh_layer_answers_as_its_base() -> None:
    ia3, x = layer(), torch.randn(2, 4)
    assert torch.equal(ia3(x), ia3.base(x))


def test_the_delta_is_the_whole_effect() -> None:
    ia3, x = layer(), torch.randn(2, 4)
    nn.init.normal_(ia3.w)
    torch.testing.assert_close(ia3(x), x @ (ia3.weight + ia3.delta_weight()).T)


def test_only_w_is_trained() -> None:
    assert [name for name, parameter in layer().named_parameters() if parameter.requires_grad] == ["w"]


def test_the_default_takes_the_keys_and_values_of_the_text() -> None:
    assert Ia3Options().layers == r"attn2\.to_[kv]$"
