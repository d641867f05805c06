import json

import pytest
import torch
from torch import nn

from sdtune.errors import ConfigError, ModelError
from sdtune.train.update.state import pack_optimizer, unpack_optimizer


def make(kind):
    generator = torch.Generator().manual_seed(0)
    names = {name: nn.Parameter(torch.randn(8, 600, generator=generator)) for name in ("unet.a/x", "unet.b")}
    groups = [
        {"params": [names["unet.b"]], "lr": 1e-2, "name": "first"},
        {"params": [names["unet.a/x"]], "lr": 1e-3, "name": "second"},
    ]
    return names, kind(groups)


def step(names, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in names.values():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def adamw8bit(groups):
    return pytest.importorskip("bitsandbytes").optim.AdamW8bit(groups)


@pytest.mark.parametrize(
    "kind",
    [lambda groups: torch.optim.AdamW(groups, fused=True), torch.optim.Adagrad, adamw8bit],
    ids=["fused_adamw", "adagrad", "adamw8bit"],
)
def test_an_optimizer_goes_on_from_its_packed_state_bit_for_bit(kind):
    names, optimizer = make(kind)
    step(names, optimizer, 1)
    tensors, values = pack_optimizer(optimizer, names)
    tensors = {label: tensor.clone() for label, tensor in tensors.items()}

    other_names, other = make(kind)
    for name, parameter in other_names.items():
        parameter.data.copy_(names[name].data)
    unpack_optimizer(other, other_names, tensors, values)
    step(names, optimizer, 2)
    step(other_names, other, 2)
    assert all(torch.equal(names[name], other_names[name]) for name in names)


@pytest.mark.parametrize("what", ["state", "groups"])
def test_state_of_other_parameters_is_refused(what):
    names, optimizer = make(torch.optim.AdamW)
    with pytest.raises(ModelError, match=r"unknown (parameters|groups), first stranger"):
        unpack_optimizer(optimizer, names, {}, {"state": {}, "groups": {}, what: {"stranger": {"step": 1}}})


class Hoarder(torch.optim.SGD):
    """Keeps one of each thing that a state may hold."""

    def step(self, closure=None):
        for group in self.param_groups:
            group["found"] = torch.tensor(0.1, dtype=torch.float64)
            for parameter in group["params"]:
                self.state[parameter] = {
                    "numbers": [1, 2.5, float("inf"), 1e-320, -0.0],
                    "others": (None, True, "text", ()),
                    "tensors": [torch.arange(3, dtype=torch.uint8), {"half": torch.ones(2, dtype=torch.bfloat16)}],
                }


def test_a_state_comes_back_with_its_types():
    names, optimizer = make(Hoarder)
    optimizer.step()
    tensors, values = pack_optimizer(optimizer, names)
    other_names, other = make(Hoarder)
    unpack_optimizer(other, other_names, tensors, json.loads(json.dumps(values)))
    for name, parameter in names.items():
        assert repr(other.state[other_names[name]]) == repr(optimizer.state[parameter])
    assert [group["found"].dtype for group in other.param_groups] == [torch.float64, torch.float64]


def test_what_options_say_of_a_group_is_not_in_its_state():
    names, optimizer = make(torch.optim.AdamW)
    assert pack_optimizer(optimizer, names)[1]["groups"] == {"first": {}, "second": {}}


def test_a_state_that_cannot_be_written_is_refused():
    names, optimizer = make(torch.optim.SGD)
    optimizer.state[names["unet.b"]] = {"function": print}
    with pytest.raises(ConfigError, match=r"SGD keeps a builtin_function_or_method \(unet.b/function\)"):
        pack_optimizer(optimizer, names)
