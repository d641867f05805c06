"""Whole runs with captions of different length in one batch."""

import json

import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.planning.plan import make_plan
from sdtune.train.run import run_folder

PLUGINS = [sdtune_lora]

LONG = ", ".join(["a photo of a (red:1.2) cat"] * 25)  # 174 tokens with weighted words, more without


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Give the options of two steps on one long and one short caption."""
    root = tmp_path_factory.mktemp("long")
    write_images(root / "data", 2, sizes=((64, 64),))
    for picture, caption in zip(sorted((root / "data").glob("*.png")), (LONG, "a dog"), strict=True):
        picture.with_suffix(".txt").write_text(caption)
    model = tiny_sd1(root / "model")

    def options(output, *more):
        given = ["method=lora", "lora.rank=2", "train.steps=2", "train.batch_size=2", "data.resolution=64"]
        places = [f"model.path={model}", f"data.path={root / 'data'}", f"output.dir={output}"]
        return [*given, *places, "data.cache.latents=ram", "log.tensorboard=false", *more]

    return options


@pytest.fixture
def losses(options):
    """Train, and give the losses."""

    def losses(output, *more):
        train(PLUGINS, *options(output, *more))
        return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]

    return losses


@pytest.fixture
def cuts(options, tmp_path):
    """Give what the plan says of captions that are cut."""

    def cuts(*more):
        registry = Registry.from_plugins(PLUGINS)
        loaded = load(registry, overrides=options(tmp_path / "out", "log.check=false", *more))
        run = assemble(loaded, registry, run_folder(loaded.options))
        return [note for note in make_plan(run).notes if "cut" in note]

    return cuts


READ = ("model.chunks=3", "model.weighted_words=true")


@pytest.mark.slow
def test_a_cached_text_trains_as_one_encoded_in_the_step(losses, tmp_path):
    more = (*READ, "lora.text_encoder=false")
    cached = losses(tmp_path / "cached", *more, "data.cache.text=ram")
    encoded = losses(tmp_path / "encoded", *more, "data.cache.text=off")
    assert cached == pytest.approx(encoded, rel=1e-5)


@pytest.mark.slow
def test_a_trained_text_encoder_reads_pieces_too(losses, tmp_path):
    pieces = losses(tmp_path / "pieces", *READ)
    cut = losses(tmp_path / "cut", "model.weighted_words=true")
    assert pieces[0] != cut[0]


@pytest.mark.slow
def test_previews_have_long_prompts_and_long_negatives(losses, tmp_path):
    previews = (f"preview.prompts=['{LONG}','a dog']", f"preview.negative='{LONG * 2}'", "preview.steps=2")
    losses(tmp_path / "out", *READ, "data.cache.text=ram", "preview.size='64'", *previews)
    assert list((tmp_path / "out").rglob("*.png"))


def test_the_plan_tells_what_is_cut_and_the_setting_that_reads_more(cuts):
    (note,) = cuts("model.weighted_words=true")
    assert note == (
        "1 of 2 captions too long for 75 tokens, and cut; 00.png loses 99 of 174, "
        f"'{f'cat, {LONG}'[:60]}...'; model.chunks=3 reads more"
    )


def test_the_plan_says_nothing_where_all_captions_fit(cuts):
    assert not cuts(*READ)
