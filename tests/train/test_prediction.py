"""Training, previews and files of models that predict v, from one setting."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import sdtune_dreambooth
import sdtune_lora
from sdtune.errors import ModelError
from sdtune.export.deliver import deliver
from sdtune.models.sidecar import read_sidecar
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import SHALLOW, tiny_model

PLUGINS = [sdtune_lora, sdtune_dreambooth]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "thing"
    write_images(folder, 2, caption="a photo of a zwx toy")
    return folder


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """Train two steps; every draw meets the last timestep, where there is nothing but noise."""

    def run(family, *more):
        root = tmp_path_factory.mktemp(family)
        return train(
            PLUGINS,
            f"model.path={tiny_model(root / 'base.safetensors', family, depths=SHALLOW.get(family))}",
            f"data.path={images}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={root / 'run'}",
            "output.name=thing",
            "train.steps=2",
            "train.batch_size=2",
            "train.min_timestep=999",
            "log.tensorboard=false",
            *more,
        )

    return run


ZERO_SNR_V = ("model.prediction=v_prediction", "model.zero_terminal_snr=true")


@pytest.mark.parametrize("sampler", ["dpmpp_2m_karras", "euler_a", "ddim"])
@pytest.mark.slow
def test_two_steps_from_pure_noise_keep_losses_and_pictures_finite(run, sampler):
    previews = ("preview.prompts=[a dog]", f"preview.sampler={sampler}", "preview.steps=3")
    done = run("sd2", "method=lora", "lora.rank=2", *previews, *ZERO_SNR_V)
    assert done.model.schedule.has_zero_snr
    lines = (done.folder.path / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
    pictures = sorted(done.folder.previews.glob("*.png"))
    assert [picture.name for picture in pictures] == ["step-00000000-00.png", "step-00000002-00.png"]
    assert all(np.asarray(Image.open(picture)).std() > 0 for picture in pictures)


@pytest.mark.slow
def test_an_adapters_metadata_says_what_it_was_trained_for(run):
    done = run("sdxl", "method=lora", "lora.rank=2", *ZERO_SNR_V)
    with safe_open(done.folder.exports / "thing.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["modelspec.prediction_type"], metadata["ss_zero_terminal_snr"]) == ("v", "True")


@pytest.mark.slow
def test_a_whole_model_brings_its_marks_and_its_sidecar(run, tmp_path):
    done = run("sd1", "method=dreambooth", *ZERO_SNR_V)
    files = deliver(done.folder.path, to="webui", root=tmp_path / "webui", name="corgi", create=True)
    assert {path.name for path in files} == {"corgi.safetensors", "corgi.yaml"}
    with safe_open(files[0], "pt") as file:
        assert {"v_pred", "ztsnr"} <= set(file.keys())
    assert read_sidecar(files[0]).prediction == "v_prediction"


def test_the_plan_says_what_the_model_predicts_and_who_says_so(run):
    from sdtune.train.planning.plan import make_plan

    done = run("sd2", "method=lora", "lora.rank=2", *ZERO_SNR_V)
    text = "predicts v (model.prediction), zero terminal SNR (model.zero_terminal_snr)"
    assert text in make_plan(done).facts["model"]


def test_pure_noise_is_refused_where_noise_is_predicted(run):
    with pytest.raises(ModelError, match="zero terminal SNR needs a model that predicts v"):
        run("sd1", "method=lora", "model.zero_terminal_snr=true")
