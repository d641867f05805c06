"""Other ways to compute attention give the same answers, or say why they cannot."""

import sys

import pytest
import torch

import sdtune_hypernetwork
from sdtune.config.model import ModelOptions
from sdtune.errors import PlatformError
from sdtune.models.open import open_model
from sdtune.plugins import Registry
from sdtune.testing.tiny import tiny_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", "sd1")


def opened(path, attention):
    options = ModelOptions(path=str(path), attention=attention)
    registry = Registry.from_plugins([sdtune_hypernetwork])
    model = open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=registry)
    model.load("text_encoder")
    model.load("unet")
    return model


@torch.no_grad()
def answer(model):
    x_t = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    return model.denoise(x_t, torch.tensor([300]), model.encode_prompt(["a red circle"]))


def test_sums_and_products_answer_as_the_fused_kernels_do(path):
    found, wanted = answer(opened(path, "math")), answer(opened(path, "sdpa"))
    assert not torch.equal(found, wanted)  # they are really other kernels
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)  # float32, sums in another order


@pytest.mark.slow
def test_changed_contexts_act_under_any_attention(path):
    answers = []
    for attention in ("math", "sdpa"):
        model = opened(path, attention)
        sdtune_hypernetwork_method().attach(model, 0)
        answers.append(answer(model))
    assert not torch.allclose(answers[0], answer(opened(path, "math")), atol=1e-4)
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-5)


def sdtune_hypernetwork_method():
    from sdtune_hypernetwork.config import HypernetworkOptions
    from sdtune_hypernetwork.method import HypernetworkMethod

    return HypernetworkMethod(HypernetworkOptions())


def test_a_missing_package_is_one_line(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(PlatformError, match="xformers") as caught:
        opened(path, "xformers")
    assert "pip install xformers" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kernel_that_fails_is_one_line(path, monkeypatch):
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    def fail(self, attention_op=None):
        raise NotImplementedError("No operator found for `memory_efficient_attention_forward`\nmany more lines")

    monkeypatch.setattr(UNet2DConditionModel, "enable_xformers_memory_efficient_attention", fail)
    with pytest.raises(PlatformError, match="No operator found") as caught:
        opened(path, "xformers")
    assert "many more lines" not in str(caught.value)
