"""What is advised when memory is used up."""

from itertools import pairwise

import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.train.machine.advice import Remedy, Sizes, advise_encoding, advise_training

SIZES = Sizes(
    unet_bytes=4 * 860_000_000,
    text_bytes=0,
    vae_bytes=300_000_000,
    trained=860_000_000,
    is_fp32=True,
    trains_text=False,
)
EVERYTHING = (
    "train.gradient_checkpointing=true",
    "train.batch_size=4",
    "train.gradient_accumulation=3",
    "data.cache.latents=off",
    "train.ema.decay=0.99",
)


@pytest.fixture(scope="module")
def registry():
    return Registry.from_plugins([sdtune_lora])


def options(registry, *overrides):
    return load(registry, overrides=["method=lora", "train.steps=9", "data.resolution=512", *overrides]).options


def test_what_is_in_use_already_is_not_advised(registry):
    found = advise_training(options(registry, *EVERYTHING), SIZES)
    assert [next(iter(remedy.changes)) for remedy in found[:5]] == [
        "data.cache.latents",
        "train.batch_size",
        "train.precision",
        "train.optimizer.name",
        "train.ema.decay",
    ]


def test_a_smaller_batch_keeps_the_images_of_a_step(registry):
    found = advise_training(options(registry, *EVERYTHING), SIZES)
    assert found[1].changes == {"train.batch_size": "2", "train.gradient_accumulation": "6"}


def test_batches_of_several_sizes_are_left_as_they_are(registry):
    given = options(registry, "train.batch_size=4", "data.subsets=[{path: rex, batch_size: 2}]")
    assert not any("train.batch_size" in remedy.changes for remedy in advise_training(given, SIZES))


def test_savings_are_computed_from_what_the_run_holds(registry):
    found = {next(iter(remedy.changes)): remedy for remedy in advise_training(options(registry), SIZES)}
    assert found["train.precision"].saving_bytes == (SIZES.unet_bytes + SIZES.vae_bytes) // 2
    assert "saves 4.8 GiB" in found["train.optimizer.name"].render()


def test_there_are_always_three_and_every_one_can_be_loaded(registry):
    poorest = ("train.gradient_checkpointing=true", "train.optimizer.name=lion", "train.precision=bf16")
    used = options(registry, *poorest)
    frozen = Sizes(unet_bytes=1, text_bytes=0, vae_bytes=0, trained=9, is_fp32=False, trains_text=False)
    found = advise_training(used, frozen)
    assert len(found) == 3
    for remedy in found:
        options(registry, *poorest, *(f"{option}={value}" for option, value in remedy.changes.items()))


def test_smaller_pictures_keep_their_shape_and_get_smaller(registry):
    found = advise_encoding(options(registry, "data.resolution=1024x512"), SIZES)
    sides = [remedy.changes["data.resolution"] for remedy in found if "data.resolution" in remedy.changes]
    areas = [width * height for width, height in (map(int, side.split("x")) for side in sides)]
    assert sides[0] == "768x384"
    assert all(first > second for first, second in pairwise([1024 * 512, *areas]))


def test_a_forecast_decides_what_saves_anything(registry):
    found = advise_training(options(registry), SIZES, lambda changes: 5 * ("train.precision" in changes))
    assert [remedy.saving_bytes for remedy in found] == [5]


def test_what_no_forecast_knows_is_estimated(registry):
    plain = advise_training(options(registry), SIZES)
    assert advise_training(options(registry), SIZES, lambda _: None) == plain


def test_a_saving_that_is_enough_is_named():
    remedy = Remedy(changes={"train.batch_size": "1"}, effect="fewer", saving_bytes=2 * 10**9)
    assert "enough by the forecast" in remedy.render(10**9)
    assert "enough" not in remedy.render(3 * 10**9)
    assert "enough" not in remedy.render()
