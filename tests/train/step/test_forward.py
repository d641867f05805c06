"""One forward of training: what the loss of a sample is made of."""

from dataclasses import replace

import pytest
import torch

import sdtune_lora
from sdtune.testing.images import draw_picture, write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.inputs.source import open_source
from sdtune.train.step.forward import TrainStep


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A run, its step, and the inputs of its first batch of two pictures; one has a transparent half."""
    root = tmp_path_factory.mktemp("step")
    write_images(root / "data", 2)
    picture = draw_picture((64, 64), seed=1)
    picture.putalpha(picture.convert("L").point(lambda value: 255 * (value > 99)))
    picture.save(root / "data" / "01.png")
    options = ["method=lora", "train.steps=1", "train.batch_size=2", "data.alpha_weight=true", "data.resolution=64"]
    paths = [f"model.path={tiny_sd1(root / 'model')}", f"data.path={root / 'data'}", f"output.dir={root / 'out'}"]
    run = train([sdtune_lora], *options, *paths, "data.cache.latents=ram", "log.tensorboard=false")
    source = open_source(run, preview_texts=(), on_progress=lambda *_: None)
    return TrainStep(run.model, run.method), source.inputs(*source.plan(run.timetable.micro_steps(0)[0]))


def losses(step, inputs):
    with torch.no_grad():
        return step(inputs)[0]


def test_a_mask_of_ones_changes_no_bit(parts):
    step, inputs = parts
    ones = replace(inputs, mask=torch.ones(2, 1, 8, 8))
    assert torch.equal(losses(step, ones), losses(step, replace(inputs, mask=None)))


def test_only_the_picture_with_transparency_is_weighted(parts):
    step, inputs = parts
    masked, plain = losses(step, inputs), losses(step, replace(inputs, mask=None))
    has_alpha = (inputs.mask != 1).flatten(1).any(1)
    assert has_alpha.sum() == 1
    assert torch.equal(masked == plain, ~has_alpha)


def test_the_losses_of_two_halves_add_up_to_the_whole(parts):
    step, inputs = parts
    halves = torch.zeros(2, 1, 8, 8)
    halves[..., :4] = 2
    left, right = (losses(step, replace(inputs, mask=half)) for half in (halves, 2 - halves))
    torch.testing.assert_close((left + right) / 2, losses(step, replace(inputs, mask=None)))
