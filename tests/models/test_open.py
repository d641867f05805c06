from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.config.model import ModelOptions
from sdtune.errors import ConfigError, ModelError
from sdtune.models.open import model_name, open_model, resolve_path
from sdtune.testing.forms import write_form
from sdtune.testing.tiny import tiny_components


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
    with pytest.raises(ModelError, match=r"has no vae; give one, model.vae=FILE"):
        open_path(tmp_path / "no.safetensors")


UNET, VAE = "model.diffusion_model.", "first_stage_model."


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        (
            "unet",
            {f"{UNET}middle_block.1.{name}": None for name in ("norm.bias", "proj_in.bias", "proj_out.bias")},
            r"the unet in m.safetensors does not fit: 3 missing \(mid_block.attentions.0.norm.bias, [^;]*bias\);",
        ),
        (
            "unet",
            {f"{UNET}middle_block.1.extra.{i}": torch.ones(1) for i in range(5)},
            r"5 not known \(mid_block.attentions.0.extra.0, [^ ]*1, [^ ]*2 and 2 more\)",
        ),
        (
            "vae",
            {f"{VAE}decoder.conv_out.weight": torch.ones(32, 3, 3, 3)},
            r"1 of another shape \(decoder.conv_out.weight \[32, 3, 3, 3\] instead of \[3, 32, 3, 3\]\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_counted_and_named_and_none_is_read(
    tmp_path, tiny_file, open_path, part, change, message
):
    tensors = {name: torch.full_like(t, torch.nan) for name, t in load_file(tiny_file).items()} | change
    save_file({name: t for name, t in tensors.items() if t is not None}, tmp_path / "m.safetensors")
    model = open_path(tmp_path / "m.safetensors")
    for load in (model.load_empty, model.load):
        with pytest.raises(ModelError, match=message) as caught:
            load(part)
        assert "\n" not in str(caught.value)


def test_tensors_that_no_part_uses_are_counted_and_named(tmp_path, tiny_file, open_path):
    usual = ("betas", "denoiser.sigmas", "cond_stage_model.logit_scale", "first_stage_model.loss.logvar")
    strange = [f"{UNET}extra.{i}.weight" for i in range(4)] + ["notes"]
    added = {name: torch.ones(2) for name in (*usual, *strange)}
    save_file(load_file(tiny_file) | added, tmp_path / "m.safetensors")
    (note,) = open_path(tmp_path / "m.safetensors").notes()
    assert note == (
        f"m.safetensors also holds 5 tensors that no part of the model uses: {', '.join(strange[:3])} and 2 more"
    )


FORMS = ("file", "ckpt", "folder", "shards", "bin", "hub")


@pytest.fixture(scope="module")
def unreadable(tmp_path_factory):
    """A model of noise in each form, in which every number is NaN: whoever reads one is refused."""
    components = tiny_components("sdxl", depths=(0, 1, 1))
    for module in components.values():
        for parameter in module.parameters():
            parameter.data.fill_(torch.nan)
    root = tmp_path_factory.mktemp("nan")
    return root, {form: write_form(form, root / form, components, "sdxl")["path"] for form in FORMS}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_no_tensor_is_read_to_tell_what_a_model_is(unreadable, open_path, monkeypatch, form):
    root, paths = unreadable
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
    model = open_path(paths[form])
    assert (model.family, model.prediction) == ("sdxl", "epsilon")
    assert model.describe()
    assert model.notes() == ()
    with pytest.raises(ModelError, match=r"Stable Diffusion XL \(sdxl\), but model.family is sd1"):
        open_path(paths[form], family="sd1")
    with pytest.raises(ModelError, match=r"vae.* holds NaN or infinity"):
        model.load("vae")


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
