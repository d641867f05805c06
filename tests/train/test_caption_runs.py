"""Whole runs in which everything is done to captions."""

import json

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.errors import ConfigError, StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.saving.checkpoint import list_checkpoints

TEXT = "a dog ||| (red, blue:1.2), {{on grass|in snow}}, a;;;b, sharp\na {{big|small}} puppy, b, c, d"
OPTIONS = (
    "method=lora",
    "lora.rank=2",
    "lora.text_encoder=false",
    "train.steps=6",
    "train.batch_size=2",
    "data.resolution=64",
    "data.cache.latents=ram",
    "log.tensorboard=false",
    "save.every_steps=1",
    "model.weighted_words=true",
    "data.caption_lines=draw",
    "data.wildcards=true",
    "data.token=zwx",
    "data.class_word=dog",
    "data.prefix='best,'",
    "data.suffix=', {pt1:1.2}'",
    "data.words={pt1: sharp}",
    "data.shuffle_tags=true",
    "data.keep_tags=1",
    "data.keep_separator='|||'",
    "data.secondary_separator=';;;'",
    "data.tag_dropout=0.2",
    "data.tag_warmup=50%",
    "data.caption_dropout=0.1",
    "data.caption_dropout_every_epochs=4",
)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Write a model, images and a file of templates, and give the options of a run."""
    root = tmp_path_factory.mktemp("captions")
    write_images(root / "data", 3, caption=TEXT)
    (root / "lines.txt").write_text("a photo of [name], [filewords]\n{caption}\n")
    model = tiny_sd1(root / "model")
    return [*OPTIONS, f"model.path={model}", f"data.path={root / 'data'}", f"data.templates={root / 'lines.txt'}"]


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


@pytest.mark.slow
def test_a_run_that_was_stopped_has_the_captions_of_one_that_was_not(given, tmp_path):
    own = train([sdtune_lora], *given, f"output.dir={tmp_path / 'straight'}", "data.workers=0")
    with pytest.raises(StoppedError):
        train([sdtune_lora], *given, f"output.dir={tmp_path / 'stopped'}", stop_after=2)
    resume_training([sdtune_lora], tmp_path / "stopped")
    first, second = weights(tmp_path / "straight"), weights(tmp_path / "stopped")
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert own.texts is None


@pytest.mark.slow
def test_the_warm_up_is_that_of_the_step(given, tmp_path):
    calm = ("data.tag_dropout=0", "data.caption_dropout=0", "data.caption_dropout_every_epochs=0")
    for span in (0, 2):
        train([sdtune_lora], *given, *calm, f"output.dir={tmp_path / str(span)}", f"data.tag_warmup={span}")
    none, slow = losses(tmp_path / "0"), losses(tmp_path / "2")
    assert none[0] != slow[0]


@pytest.mark.slow
def test_templates_that_were_edited_are_told_when_the_run_goes_on(given, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("a [name]\n")
    own = [*given, f"data.templates={lines}", f"output.dir={tmp_path / 'out'}"]
    with pytest.raises(StoppedError):
        train([sdtune_lora], *own, stop_after=2)
    lines.write_text("the [name]\n")
    with pytest.raises(ConfigError, match="images or captions changed"):
        resume_training([sdtune_lora], tmp_path / "out")
