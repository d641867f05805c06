"""The objective in whole runs: batches, resume, caches, files."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import sdtune_lora
from sdtune.errors import ConfigError, StoppedError
from sdtune.export.container import read_metadata
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.inputs.source import open_source
from sdtune.train.planning.plan import make_plan

pytestmark = pytest.mark.slow

PLUGINS = [sdtune_lora]
EVERYTHING = (
    "loss.type=huber",
    "loss.min_snr_gamma=5",
    "noise.offset=0.1",
    "noise.offset_random=true",
    "noise.offset_adaptive=0.1",
    "noise.pyramid_levels=4",
    "noise.perturbation=0.1",
    "timesteps.distribution=logit_normal",
)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("objective")
    model = tiny_sd1(root / "model")
    write_images(root / "data", 3, caption="a photo of a zwx toy")
    (root / "masks").mkdir()
    for path in sorted((root / "data").glob("*.png"))[:2]:
        with Image.open(path) as image:
            mask = Image.new("L", image.size, 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(root / "masks" / path.name)

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={root / 'data'}",
            f"data.mask.dir={root / 'masks'}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=toy",
            "output.certify=false",
            "train.steps=3",
            "train.batch_size=3",
            "train.lr=1e-2",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_batches_of_one_give_the_losses_of_one_batch(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "whole", *EVERYTHING))
    train(PLUGINS, *options(tmp_path / "parts", *EVERYTHING, "train.batch_size=1", "train.gradient_accumulation=3"))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)


def test_resume_repeats_the_uninterrupted_run(tmp_path, options):
    more = (*EVERYTHING, "train.batch_size=2")
    train(PLUGINS, *options(tmp_path / "whole", *more))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "parts", *more), stop_after=1)
    resume_training(PLUGINS, tmp_path / "parts")
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "exports" / "toy.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_plan_and_file_tell_of_the_objective(tmp_path, options):
    run = train(PLUGINS, *options(tmp_path / "out", *EVERYTHING, "train.steps=1"))
    plan = make_plan(run)
    assert plan.facts["objective"] == (
        "huber of noise, c 0.1 by snr, min-SNR gamma 5; noise offset 0 to 0.1 and 0.1 x mean latent, "
        "pyramid noise of 4 levels, discount 0.3, input perturbation 0.1; timesteps logit-normal, mean 0, std 1"
    )
    assert any("2 masks from masks" in note for note in plan.notes)
    metadata = read_metadata(tmp_path / "out" / "exports" / "toy.safetensors")
    assert (metadata["ss_loss_type"], metadata["ss_masked_loss"]) == ("huber", "True")


def test_an_option_that_the_model_gives_no_meaning_to_ends_the_run_before_it_begins(tmp_path, options):
    with pytest.raises(ConfigError, match="scale_v_like_noise is for models that predict v"):
        train(PLUGINS, *options(tmp_path / "out", "loss.scale_v_like_noise=true"))
    assert not (tmp_path / "out").exists()


def test_a_dropped_caption_has_the_empty_prompts_text_from_the_cache_too(tmp_path, options):
    run = train(PLUGINS, *options(tmp_path / "out", "data.caption_dropout=0.5", "train.steps=1"))
    source = open_source(run, preview_texts=(), on_progress=lambda *_: None)
    plans = [(epoch, source.plan(run.timetable.micro_steps(0)[0])[1]) for epoch in range(6)]
    inputs = [source.inputs(epoch, plan) for epoch, plan in plans]
    seen = {text: hidden for own in inputs for text, hidden in zip(own.captions, own.cond.hidden, strict=True)}
    run.model.load("text_encoder")
    with torch.no_grad():
        assert set(seen) == {"", "a photo of a zwx toy"}
        assert all(torch.equal(hidden, run.model.encode_prompt([text]).hidden[0]) for text, hidden in seen.items())


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_training_lowers_the_loss_of_models_that_predict_something_else(tmp_path, options, prediction):
    more = (f"model.prediction={prediction}", "train.steps=12", "train.epochs=---", "train.lr=3e-2")
    train(PLUGINS, *options(tmp_path / "out", *more))
    found = losses(tmp_path / "out")
    assert sum(found[-4:]) < sum(found[:4])
