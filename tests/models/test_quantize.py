"""Frozen layers in few bits: how far they are off, that nothing of full size stays, and what is still as stored."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sdtune.config.model import ModelOptions
from sdtune.errors import ConfigError, PlatformError
from sdtune.models.open import open_model
from sdtune.models.quantize import QuantizedLinear, quantized_layers
from sdtune.plugins import Registry
from sdtune.testing.tiny import tiny_model
from sdtune_lora.layers import LoraLayer

FORMS = ("int8", "nf4")
# Dettmers et al. 2023, appendix E, to four digits.
NF4 = (-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0)
NF4 += (0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny", "sd1")


def opened(path, form, dtype=torch.float32, parts=("unet", "text_encoder")):
    options = ModelOptions(path=str(path), quantize=form)
    model = open_model(options, dtype=dtype, device=torch.device("cpu"), registry=Registry.from_plugins([]))
    for part in parts:
        model.load(part)
    return model


@torch.no_grad()
def answer(model):
    x_t = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    return model.denoise(x_t, torch.tensor([300]), model.encode_prompt(["a red circle"]))


def weight_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.05


def layer_of(form, weight, *, bias=True):
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias).requires_grad_(False)
    return QuantizedLinear(linear, weight, form, lambda dtype: weight.to(dtype))


def test_eight_bits_are_off_by_half_a_step_of_the_row_at_most():
    weight = weight_of(24, 64) * torch.logspace(-3, 3, 24)[:, None]
    step = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((layer_of("int8", weight).weight - weight).abs() <= step * 0.5001).all())


def test_a_row_of_zeros_stays():
    weight = weight_of(4, 64)
    weight[2] = 0
    assert not layer_of("int8", weight).weight[2].any()


def test_four_bits_are_the_papers_numbers_times_the_largest_of_each_block():
    weight = weight_of(16, 64)
    scales = weight.abs().amax(1, keepdim=True)
    shares = layer_of("nf4", weight).weight / scales
    table = torch.tensor(NF4)
    nearest = (shares[..., None] - table).abs()
    assert float(nearest.amin(-1).max()) < 0.01  # the scales too are in 8 bits
    gaps = (torch.tensor(NF4[1:]) - torch.tensor(NF4[:-1])).max() / 2
    assert float(((weight / scales) - shares).abs().max()) <= float(gaps) + 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_is_the_linear_layer_of_its_weight(form, dtype):
    layer = layer_of(form, weight_of(24, 64).to(dtype)).to(dtype)
    x = torch.randn(2, 3, 64, dtype=dtype, requires_grad=True)
    copy = x.detach().clone().requires_grad_(True)
    y, wanted = layer(x), F.linear(copy, layer.weight, layer.bias)
    assert layer.weight.dtype == dtype
    assert torch.equal(y, wanted)
    y.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(x.grad, copy.grad)


def saved_elements(compute):
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        y = compute()
    return sizes, y


def test_nothing_of_full_size_waits_for_backward():
    layer = layer_of("int8", weight_of(40, 64))
    x = torch.randn(2, 64, requires_grad=True)
    plain, _ = saved_elements(lambda: layer(x))
    adapted, y = saved_elements(lambda: LoraLayer(layer, rank=2, alpha=2)(x))
    assert max([0, *plain, *adapted]) < 40 * 64
    y.sum().backward()
    assert x.grad is not None


def test_gradients_reach_an_adapter_as_without_packing():
    layer = layer_of("nf4", weight_of(24, 64), bias=False)
    full = nn.Linear(64, 24, bias=False)
    full.weight = nn.Parameter(layer.weight, requires_grad=False)
    x, grads = torch.randn(2, 64), []
    for base in (layer, full):
        adapter = LoraLayer(base, rank=2, alpha=2)
        adapter.reset(torch.Generator().manual_seed(0))
        adapter(x).square().sum().backward()
        grads.append(adapter.lora_up.grad)
    torch.testing.assert_close(*grads)
    assert grads[0].abs().max() > 0


@pytest.mark.parametrize(("form", "most"), [("int8", 0.03), ("nf4", 0.3)])
def test_a_models_answer_is_near_the_whole_ones(path, form, most):
    """By error over answer; weights alone are off by 0.008 and 0.09 of their size."""
    found, wanted = answer(opened(path, form)), answer(opened(path, None))
    error = float((found - wanted).norm() / wanted.norm())
    assert 0 < error < most


@pytest.mark.parametrize("form", FORMS)
def test_stored_weights_answer_as_if_nothing_were_packed(path, form):
    model, wanted = opened(path, form), answer(opened(path, None))
    before = answer(model)
    with model.stored_weights():
        assert torch.equal(answer(model), wanted)
    assert torch.equal(answer(model), before)


def test_parts_that_are_loaded_meanwhile_are_whole(path):
    model, wanted = opened(path, "int8", parts=("unet",)), answer(opened(path, None))
    with model.stored_weights():
        model.load("text_encoder")
        assert torch.equal(answer(model), wanted)


def test_attention_and_mlp_are_packed_and_nothing_else(path):
    model = opened(path, "int8", parts=("unet", "text_encoder", "vae"))
    packed = {name for part in ("unet", "text_encoder", "vae") for name, layer in model.layers(part)
              if isinstance(layer, QuantizedLinear)}  # fmt: skip
    whole = opened(path, None)
    linear = {t.path for t in whole.targets(("unet", "text_encoder")) if isinstance(t.module, nn.Linear)}
    assert packed == {name for name in linear if "transformer_blocks" in name or "layers" in name}
    assert model.part("unet").time_embedding.linear_1.weight.dtype == torch.float32


def test_packed_layers_take_the_bytes_they_say():
    full = 64 * 640 * 4
    eight, four = (layer_of(form, weight_of(64, 640)).nbytes for form in FORMS)
    assert eight == 64 * 640 + 64 * 4
    assert four == 64 * 640 // 2 + 64 * 640 // 64
    assert full == layer_of("int8", weight_of(64, 640)).full_nbytes


def test_the_plan_tells_what_is_saved(path):
    model = opened(path, "int8")
    assert "linear layers in int8: " in model.describe()
    assert sum(layer.nbytes for layer in quantized_layers(model)) < 0.3 * sum(
        layer.full_nbytes for layer in quantized_layers(model)
    )


def test_digests_tell_files_and_answers_apart(path):
    packed, whole = opened(path, "int8", parts=()), opened(path, None, parts=())
    assert packed.part_digest("unet") == whole.part_digest("unet")
    assert packed.text_digest != whole.text_digest


def test_files_of_the_whole_model_hold_its_weights_as_stored(path):
    packed, whole = opened(path, "nf4").webui_state_dict(), opened(path, None).webui_state_dict()
    assert packed.keys() == whole.keys()
    assert all(torch.equal(packed[name], whole[name]) for name in whole)


def test_a_part_that_is_trained_as_a_whole_is_refused(path):
    with pytest.raises(ConfigError, match=r"model\.quantize=nf4"):
        opened(path, "nf4", parts=()).unfreeze("unet")


def test_a_missing_package_is_one_line(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(PlatformError, match=r"pip install 'sdtune\[bnb\]'") as caught:
        opened(path, "nf4", parts=())
    assert "\n" not in str(caught.value)
