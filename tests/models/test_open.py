from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.config.model import ModelOptions
from sdtune.errors import ConfigError, ModelError
from sdtune.models.open import model_name, open_model, resolve_path


@pytest.fixture
def open_path(registry):
    def opened(path, **options):
        options = ModelOptions(path=str(path), **options)
        return open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=registry)

    return opened


@pytest.mark.parametrize("layout", ["tiny_folder", "tiny_file"])
def test_the_family_is_found_and_nothing_is_loaded(request, open_path, layout):
    model = open_path(request.getfixturevalue(layout))
    assert (model.family, model.source.name, model.prediction) == ("sd1", "tiny", "epsilon")
    assert not any(model.is_loaded(part) for part in ("unet", "vae", "text_encoder"))


def test_model_index_stands_for_its_folder(tiny_folder):
    assert resolve_path(str(tiny_folder / "model_index.json")) == tiny_folder


def test_a_lora_as_base_model_is_told(tmp_path, open_path):
    save_file({"lora_unet_conv_in.lora_down.weight": torch.zeros(1)}, tmp_path / "my.safetensors")
    with pytest.raises(ModelError, match=r"my.safetensors holds a LoRA or LyCORIS.*one of these families: sd1"):
        open_path(tmp_path / "my.safetensors")


def test_a_model_without_vae_is_told(tmp_path, tiny_file, open_path):
    tensors = {name: t for name, t in load_file(tiny_file).items() if not name.startswith("first_stage")}
    save_file(tensors, tmp_path / "no.safetensors")
    with pytest.raises(ModelError, match="has no vae"):
        open_path(tmp_path / "no.safetensors")


def test_skipping_every_layer_is_told(tiny_file, open_path):
    with pytest.raises(ModelError, match="clip_skip is 3, but the text encoder has 2 layers"):
        open_path(tiny_file, clip_skip=3)


def test_an_unknown_family_is_a_config_error(tiny_file, open_path):
    with pytest.raises(ConfigError, match="'sd9' is not known; one of: sd1"):
        open_path(tiny_file, family="sd9")


def test_a_folder_without_a_model_is_told(tmp_path, open_path):
    with pytest.raises(ModelError, match="not a diffusers model"):
        open_path(tmp_path)


def test_a_family_that_the_file_is_not_of_is_refused(tiny_file, open_path):
    with pytest.raises(
        ModelError, match=r"tiny.safetensors holds Stable Diffusion 1 \(sd1\), but model.family is sdxl"
    ):
        open_path(tiny_file, family="sdxl")


def test_a_path_that_is_not_there_is_told(tmp_path, open_path):
    with pytest.raises(ModelError, match=r"there is no model .*none.*or 'demo'"):
        open_path(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b.v1.safetensors", "b.v1"),
        ("a/folder-1.5", "folder-1.5"),
        ("owner/m.v1.ckpt", "m.v1"),
        ("demo", "demo"),
        ("a/m/model_index.json", "m"),
    ],
)
def test_names_have_no_folder_and_no_suffix(path, name):
    assert model_name(path) == name
