import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdtune.api import ConfigError, ModelError
from sdtune_lora.files import load_tensors, read_tensors, to_tensors
from sdtune_lora.layers import LoraLayer


def make_layers(*, rank=3, alpha=2.0, width=6):
    layers = {
        "lora_unet_a": LoraLayer(nn.Linear(width, 5), rank=rank, alpha=alpha),
        "lora_unet_b": LoraLayer(nn.Conv2d(width, 5, 3), rank=rank, alpha=alpha),
    }
    for parameter in (p for layer in layers.values() for p in (layer.lora_down, layer.lora_up)):
        nn.init.normal_(parameter)
    return layers


def test_tensors_have_the_true_shapes_and_names():
    assert {name: tuple(tensor.shape) for name, tensor in to_tensors(make_layers()).items()} == {
        "lora_unet_a.lora_down.weight": (3, 6),
        "lora_unet_a.lora_up.weight": (5, 3),
        "lora_unet_a.alpha": (),
        "lora_unet_b.lora_down.weight": (3, 6, 3, 3),
        "lora_unet_b.lora_up.weight": (5, 3, 1, 1),
        "lora_unet_b.alpha": (),
    }


def test_loading_is_the_inverse_of_writing(tmp_path):
    written = to_tensors(make_layers())
    save_file(written, tmp_path / "a.safetensors")
    layers = make_layers()
    load_tensors(layers, read_tensors(tmp_path / "a.safetensors"), where="a.safetensors")
    assert all(torch.equal(tensor, written[name]) for name, tensor in to_tensors(layers).items())


def test_half_precision_is_loaded_into_float32():
    layers = make_layers(alpha=2.3)
    load_tensors(layers, {name: tensor.bfloat16() for name, tensor in to_tensors(layers).items()}, where="a")
    assert layers["lora_unet_a"].lora_down.dtype == torch.float32


def test_a_missing_alpha_means_the_rank():
    tensors = {name: tensor for name, tensor in to_tensors(make_layers()).items() if not name.endswith("alpha")}
    load_tensors(make_layers(alpha=3.0), tensors, where="a")
    with pytest.raises(ModelError, match="has alpha 3, this run has 2"):
        load_tensors(make_layers(), tensors, where="a")


def test_another_rank_is_told():
    with pytest.raises(ModelError, match=r"lora_unet_a has rank 4, this run has 3; set .* \(a.safetensors\)"):
        load_tensors(make_layers(), to_tensors(make_layers(rank=4)), where="a.safetensors")


def test_another_shape_is_told():
    with pytest.raises(ModelError, match="another family"):
        load_tensors(make_layers(), to_tensors(make_layers(width=8)), where="a.safetensors")


def test_missing_and_extra_names_are_told_and_nothing_is_changed():
    layers = make_layers()
    before = {name: tensor.clone() for name, tensor in to_tensors(layers).items()}
    tensors = to_tensors(make_layers())
    tensors["lora_te_x.lora_down.weight"] = tensors.pop("lora_unet_b.lora_up.weight")
    with pytest.raises(ModelError) as caught:
        load_tensors(layers, tensors, where="a.safetensors")
    assert "misses lora_unet_b.lora_up.weight" in str(caught.value)
    assert "holds lora_te_x.lora_down.weight, which this run does not train" in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in to_tensors(layers).items())


def test_no_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_broken_file_is_told(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a readable"):
        read_tensors(tmp_path / "a.safetensors")
