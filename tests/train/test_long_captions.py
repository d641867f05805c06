"""Whole runs with captions of different length in one batch."""

import json

import pytest

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.plan import make_plan

LONG = ", ".join(["a photo of a (red:1.2) cat"] * 25)  # 174 tokens with weighted words, more without


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train two steps on one long and one short caption; gives the run and its losses."""
    root = tmp_path_factory.mktemp("long")
    write_images(root / "data", 2, sizes=((64, 64),))
    for picture, caption in zip(sorted((root / "data").glob("*.png")), (LONG, "a dog"), strict=True):
        picture.with_suffix(".txt").write_text(caption)
    model = tiny_sd1(root / "model")

    def run(output, *more):
        options = ["method=lora", "lora.rank=2", "train.steps=2", "train.batch_size=2", "data.resolution=64"]
        places = [f"model.path={model}", f"data.path={root / 'data'}", f"output.dir={output}"]
        own = train([sdtune_lora], *options, *places, "data.cache.latents=ram", "log.tensorboard=false", *more)
        lines = (output / "metrics.jsonl").read_text().splitlines()
        return own, [json.loads(line)["loss"] for line in lines]

    return run


READ = ("model.chunks=3", "model.weighted_words=true")


@pytest.mark.slow
def test_a_cached_text_trains_as_one_encoded_in_the_step(run, tmp_path):
    options = (*READ, "lora.text_encoder=false")
    _, cached = run(tmp_path / "cached", *options, "data.cache.text=ram")
    _, encoded = run(tmp_path / "encoded", *options, "data.cache.text=off")
    assert cached == pytest.approx(encoded, rel=1e-5)


@pytest.mark.slow
def test_a_trained_text_encoder_reads_pieces_too(run, tmp_path):
    _, losses = run(tmp_path / "pieces", *READ)
    _, cut = run(tmp_path / "cut", "model.weighted_words=true")
    assert losses[0] != cut[0]


@pytest.mark.slow
def test_previews_have_long_prompts_and_long_negatives(run, tmp_path):
    previews = (f"preview.prompts=['{LONG}','a dog']", f"preview.negative='{LONG * 2}'", "preview.steps=2")
    run(tmp_path / "out", *READ, "data.cache.text=ram", "preview.size='64'", *previews)
    assert list((tmp_path / "out").rglob("*.png"))


def test_the_plan_tells_what_is_cut_and_the_setting_that_reads_more(run, tmp_path):
    own, _ = run(tmp_path / "out", "model.weighted_words=true")
    (note,) = [note for note in make_plan(own).notes if "cut" in note]
    assert note == (
        "1 of 2 captions too long for 75 tokens, and cut; 00.png loses 99 of 174, "
        f"'{f'cat, {LONG}'[:60]}...'; model.chunks=3 reads more"
    )


def test_the_plan_says_nothing_where_all_captions_fit(run, tmp_path):
    own, _ = run(tmp_path / "out", *READ)
    assert not [note for note in make_plan(own).notes if "cut" in note]
