"""Whole runs on a tiny model: what they write opens elsewhere and answers as the live model does."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import sdtune_dreambooth
from sdtune.api import SdtuneError
from sdtune.testing.images import write_images
from sdtune.testing.models import open_tiny_sd1
from sdtune.testing.runner import resume_training, train

PLUGINS = [sdtune_dreambooth]
UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "thing"
    write_images(folder, 2, caption="a photo of a zwx toy")
    return folder


@pytest.fixture(scope="module")
def options(model_path, images):
    def make(output, *more):
        return [
            "method=dreambooth",
            f"model.path={model_path}",
            f"data.path={images}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=thing",
            "train.steps=4",
            "train.batch_size=2",
            "dreambooth.unet_lr=1e-4",
            "log.tensorboard=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


@pytest.fixture(scope="module")
def trained(tmp_path_factory, options):
    """A run with both parts trained, and everything written."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    more = ("dreambooth.text_encoder=true", "dreambooth.text_encoder_lr=1e-4", "dreambooth.diffusers=true")
    return train(PLUGINS, *options(folder, *more))


def checkpoints(run):
    return sorted(path for path in run.folder.checkpoints.iterdir() if path.is_dir())


def exported(run):
    return run.folder.exports / f"{run.name}.safetensors"


def reopened(path, tokenizer):
    model = open_tiny_sd1(path, parts=())
    model = type(model)(replace(model.source, options=model.source.options.model_copy(update={"tokenizer": tokenizer})))
    for part in ("unet", "text_encoder"):
        model.load(part)
    return model


def assert_same_answer(pipeline, run, predict):
    """Weights to the last bit; answers nearly: tensors of mapped files are aligned otherwise."""
    for part in ("unet", "text_encoder"):
        theirs = {name.removeprefix("text_model."): t for name, t in getattr(pipeline, part).state_dict().items()}
        own = run.model.part(part).state_dict().items()
        assert all(torch.equal(theirs[name.removeprefix("text_model.")], tensor) for name, tensor in own)
    torch.testing.assert_close(predict(_Pipeline(pipeline)), predict(run.model), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_single_file_gives_the_live_models_prediction(trained, model_path, predict):
    again = reopened(exported(trained), model_path.parent / "tokenizer")
    assert torch.equal(predict(again), predict(trained.model))


def test_training_moves_what_is_trained_and_nothing_else(trained, model_path):
    before, after = load_file(model_path), load_file(exported(trained))
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith(VAE)} <= still
    assert not [name for name in still if name.startswith((UNET, TEXT))]


@pytest.mark.slow
def test_half_precision_stays_near_the_live_model(tmp_path, options, model_path, predict):
    run = train(PLUGINS, *options(tmp_path / "run", "save.dtype=fp16", "train.steps=1"))
    run.model.load("text_encoder")
    live, again = predict(run.model), predict(reopened(exported(run), model_path.parent / "tokenizer"))
    assert load_file(exported(run))[f"{UNET}out.2.weight"].dtype == torch.float16
    assert (again - live).abs().max() < 5e-3 * live.abs().max()


def test_the_diffusers_folder_opens_offline_and_gives_the_live_prediction(trained, predict):
    from diffusers import StableDiffusionPipeline

    folder = trained.folder.exports / "thing-diffusers"
    assert_same_answer(StableDiffusionPipeline.from_pretrained(folder, local_files_only=True), trained, predict)


@pytest.mark.slow
def test_diffusers_opens_the_single_file(trained, predict):
    from diffusers import StableDiffusionPipeline

    folder = trained.folder.exports / "thing-diffusers"
    pipeline = StableDiffusionPipeline.from_single_file(exported(trained), config=str(folder), local_files_only=True)
    assert_same_answer(pipeline, trained, predict)


@pytest.mark.slow
def test_the_text_encoder_stays_as_it_is_by_default(tmp_path, options, model_path):
    run = train(PLUGINS, *options(tmp_path / "run", "train.steps=1"))
    before, after = load_file(model_path), load_file(exported(run))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith((TEXT, VAE)))


@pytest.mark.slow
def test_bf16_trains_near_fp32(tmp_path, options):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = train(PLUGINS, *options(tmp_path / precision, f"train.precision={precision}"))
        lines = (run.folder.metrics).read_text().splitlines()
        losses[precision] = torch.tensor([json.loads(line)["loss"] for line in lines])
    assert {p.dtype for p in run.parameters().values()} == {torch.float32}
    torch.testing.assert_close(losses["bf16"], losses["fp32"], rtol=0.02, atol=0)
    assert not torch.equal(losses["bf16"], losses["fp32"])


@pytest.mark.slow
def test_resume_repeats_the_uninterrupted_run(tmp_path, options):
    more = ("dreambooth.text_encoder=true", "dreambooth.text_encoder_stop=50%", "train.ema.decay=0.9")
    whole = train(PLUGINS, *options(tmp_path / "whole", *more))
    with pytest.raises(SdtuneError, match="stopped after step 3"):
        train(PLUGINS, *options(tmp_path / "parts", *more), stop_after=3)
    resume_training(PLUGINS, tmp_path / "parts")
    one, other = (load_file(tmp_path / name / "exports" / "thing.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(checkpoints(whole)) == 1


@pytest.mark.slow
def test_the_text_encoder_stops_when_told_to(tmp_path, options):
    more = ("dreambooth.text_encoder=true", "dreambooth.text_encoder_stop=2", "save.every_steps=2", "save.keep=9")
    run = train(PLUGINS, *options(tmp_path / "run", *more))
    at_stop, at_end = (load_file(path / "parameters.safetensors") for path in checkpoints(run))
    moved = {name.partition(".")[0] for name in at_end if not torch.equal(at_stop[name], at_end[name])}
    assert moved == {"unet"}


class _Pipeline:
    """Ask a pipeline of diffusers what sdtune's models are asked."""

    def __init__(self, pipeline):
        self._pipeline = pipeline

    def encode_prompt(self, captions):
        tokens = self._pipeline.tokenizer(
            captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        return self._pipeline.text_encoder(tokens).last_hidden_state

    def denoise(self, latents, timesteps, hidden):
        return self._pipeline.unet(latents, timesteps, hidden, return_dict=False)[0]
