"""A model that says what it predicts still says it after it was written: in every form, and to every reader."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.architecture import FAMILIES
from sdtune.models.base import ModelSource
from sdtune.models.sd import StableDiffusion
from sdtune.testing.tiny import SHALLOW, tiny_model

BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
NAMES = ["sd1", "sd2", "sdxl"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return {
        family: tiny_model(folder / f"{family}.safetensors", family, depths=SHALLOW.get(family)) for family in NAMES
    }


def opened(path, family, **options):
    source = ModelSource(
        path=path,
        name=path.stem,
        dtype=torch.float32,
        device=torch.device("cpu"),
        options=ModelOptions(path=str(path), **options),
    )
    return StableDiffusion(source, FAMILIES[family])


def write_folder(model, folder):
    for name, content in model.diffusers_files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else save_file(dict(content), path)
    return folder


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("family", NAMES)
def test_a_single_file_is_marked(files, tmp_path, family, zero_snr):
    model = opened(files[family], family, prediction="v_prediction", zero_terminal_snr=zero_snr)
    tensors = model.webui_state_dict()
    marks = {"v_pred", "ztsnr"} if zero_snr else {"v_pred"}
    assert tensors.keys() - load_file(files[family]).keys() == marks
    assert tensors["v_pred"].numel() == 0
    save_file(tensors, tmp_path / "v.safetensors")
    again = opened(tmp_path / "v.safetensors", family)
    assert (again.prediction, again.schedule.has_zero_snr) == ("v_prediction", zero_snr)
    assert "tensor v_pred" in again.describe()


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("family", NAMES)
def test_a_folder_says_it_in_its_scheduler(files, tmp_path, family, zero_snr):
    model = opened(files[family], family, prediction="v_prediction", zero_terminal_snr=zero_snr)
    again = opened(write_folder(model, tmp_path / "v"), family)
    assert (again.prediction, again.schedule.has_zero_snr) == ("v_prediction", zero_snr)
    assert torch.equal(again.schedule.alpha_bar, model.schedule.alpha_bar)
    assert "scheduler_config.json" in again.describe()


def test_diffusers_reads_the_same_schedule_from_the_folder(files, tmp_path):
    from diffusers import DDIMScheduler

    model = opened(files["sd2"], "sd2", prediction="v_prediction", zero_terminal_snr=True)
    scheduler = DDIMScheduler.from_pretrained(write_folder(model, tmp_path / "v"), subfolder="scheduler")
    torch.testing.assert_close(scheduler.alphas_cumprod, model.schedule.alpha_bar, rtol=1e-3, atol=1e-7)
    assert (scheduler.config.prediction_type, scheduler.config.timestep_spacing) == ("v_prediction", "trailing")


def test_a_schedule_taken_back_is_not_said_to_end_in_pure_noise(files, tmp_path):
    zero = write_folder(
        opened(files["sd2"], "sd2", prediction="v_prediction", zero_terminal_snr=True), tmp_path / "zero"
    )
    back = write_folder(opened(zero, "sd2", zero_terminal_snr=False), tmp_path / "back")
    assert not json.loads((back / "scheduler" / "scheduler_config.json").read_text())["rescale_betas_zero_snr"]


@pytest.mark.parametrize("family", NAMES)
def test_the_sidecar_alone_tells(files, tmp_path, family):
    sidecars = opened(files[family], family, prediction="v_prediction").webui_sidecars()
    assert sidecars.keys() == {".yaml"}
    (tmp_path / "base.safetensors").write_bytes(files[family].read_bytes())
    (tmp_path / "base.yaml").write_bytes(sidecars[".yaml"])
    assert opened(tmp_path / "base.safetensors", family).describe() == f"{family}, predicts v (sidecar base.yaml)"


@pytest.mark.parametrize("family", NAMES)
def test_a_model_of_noise_needs_neither_mark_nor_sidecar(files, family):
    model = opened(files[family], family, prediction="epsilon")
    assert model.webui_sidecars() == {}
    assert model.webui_state_dict().keys() == load_file(files[family]).keys()


@pytest.mark.parametrize(("spread", "prediction", "side"), [(0.01, "epsilon", 512), (0.3, "v_prediction", 768)])
def test_sd2_without_a_word_is_guessed_by_its_weights(files, tmp_path, spread, prediction, side):
    tensors = load_file(files["sd2"])
    tensors[BIAS] = torch.linspace(-1, 1, len(tensors[BIAS])) * spread
    save_file(tensors, tmp_path / "sd2.safetensors")
    model = opened(tmp_path / "sd2.safetensors", "sd2")
    assert (model.prediction, model.native_px) == (prediction, side)
    assert "a guess" in model.describe()


def test_other_families_are_not_guessed(files):
    assert opened(files["sd1"], "sd1").describe() == "sd1, predicts noise (the family's default)"


def test_a_contradiction_is_refused(files, tmp_path):
    save_file(load_file(files["sd2"]) | {"v_pred": torch.zeros(0)}, tmp_path / "v.safetensors")
    with pytest.raises(ModelError, match=r"model\.prediction is epsilon, but the model's own tensor v_pred"):
        opened(tmp_path / "v.safetensors", "sd2", prediction="epsilon")


def test_averaged_weights_are_left_alone_and_mentioned(files, tmp_path):
    tensors = load_file(files["sd1"])
    averaged = {f"model_ema.{name.replace('.', '')}": torch.zeros(1) for name in tensors if "diffusion" in name}
    save_file(tensors | averaged, tmp_path / "full.safetensors")
    assert "averaged weights (EMA), which are not used" in opened(tmp_path / "full.safetensors", "sd1").notes()[0]
