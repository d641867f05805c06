"""Buckets and crops in real runs: odd sizes on every family, several resolutions, random crops and held-out images."""

from __future__ import annotations

import pytest
import torch

import sdtune_lora
from sdtune.data.types import BatchPlan
from sdtune.errors import ConfigError
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1, tiny_sd2, tiny_sdxl
from sdtune.train.inputs.source import make_builder, make_held_out_builder

OPTIONS = (
    "method=lora",
    "train.steps=2",
    "train.precision=fp32",
    "data.cache.latents=ram",
    "log.tensorboard=false",
    "data.buckets.step_px=8",
)
ODD = [(90, 70), (70, 90), (120, 60), (64, 64)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def start(model, tmp_path):
    def call(*overrides, path=model):
        return train([sdtune_lora], *OPTIONS, f"model.path={path}", f"output.dir={tmp_path / 'run'}", *overrides)

    return call


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_sd1, tiny_sd2, tiny_sdxl])
def test_sides_that_are_multiples_of_8_train_on_every_family(start, tmp_path, make):
    write_images(tmp_path / "images", 4, sizes=ODD)
    options = (f"data.path={tmp_path / 'images'}", "data.resolution=64", "data.buckets.rule=ratios")
    run = start(*options, "data.buckets.num_bucket=4", "train.steps=4", path=make(tmp_path / "model"))
    assert sorted(run.bucket_counts()) == [(56, 72), (64, 64), (72, 56), (88, 48)]


@pytest.mark.slow
def test_folders_of_several_resolutions_train_in_one_run(start, tmp_path):
    for name in ("small", "large"):
        write_images(tmp_path / name, 2, sizes=ODD)
    places = [f"{{path: {tmp_path / name}, resolution: {side}}}" for name, side in (("small", 64), ("large", 96))]
    run = start(f"data.subsets=[{', '.join(places)}]", "data.resolution=64")
    assert [placement.bucket for placement in run.placements] == [(72, 56), (56, 72), (104, 88), (88, 104)]


@pytest.mark.slow
def test_held_out_images_are_cut_in_the_middle_whatever_the_others_are(start, tmp_path):
    write_images(tmp_path / "images", 4, sizes=[(150, 64)])
    options = ("data.crop=random", "data.cache.latents=off", "data.buckets.enabled=false", "validation.split=0.5")
    run = start(f"data.path={tmp_path / 'images'}", "data.resolution=64", *options, "validation.every_steps=1")
    trained, measured = make_builder(run, None), make_held_out_builder(run, None)
    visits = run.held_out.visits()
    again, once = (
        measured.build(BatchPlan(bucket=run.held_out.placements[0].bucket, visits=visits), epoch) for epoch in (0, 1)
    )
    assert torch.equal(again.pixels, once.pixels)
    assert again.sizes[:, 3].tolist() == [43, 43]
    plan = BatchPlan(bucket=run.placements[0].bucket, visits=visits[:1])
    assert len({trained.build(plan, epoch).sizes[0, 3].item() for epoch in range(4)}) > 1


def test_more_groups_than_images_ends_before_the_first_step(start, tmp_path):
    write_images(tmp_path / "images", 2)
    with pytest.raises(ConfigError, match="num_bucket=3 is more than the number of images, 2"):
        start(f"data.path={tmp_path / 'images'}", "data.buckets.rule=ratios", "data.buckets.num_bucket=3")
