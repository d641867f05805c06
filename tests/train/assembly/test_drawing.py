"""Regularization images that are not there are drawn before training, once."""

import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.errors import ConfigError
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.planning.plan import make_plan
from sdtune.train.run import run_folder

PLUGINS = [sdtune_lora]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def options(model, tmp_path):
    write_images(tmp_path / "data", 3, sizes=((64, 64), (64, 64), (96, 48)), caption="a photo of a zwx dog")

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={tmp_path / 'data'}",
            "data.resolution=64",
            "data.cache.latents=ram",
            'regularization.prompt="a photo of a dog"',
            "regularization.generate.per_image=2",
            "regularization.generate.steps=2",
            f"output.dir={tmp_path / output}",
            "output.name=dog",
            "train.steps=1",
            "lora.rank=1",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            *more,
        ]

    return make


def plan(options):
    registry = Registry.from_plugins(PLUGINS)
    loaded = load(registry, overrides=options)
    return assemble(loaded, registry, run_folder(loaded.options))


def drawn(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def test_a_plan_counts_what_will_be_drawn_and_draws_nothing(options, tmp_path, cache):
    run = plan(options("out"))
    sizes = [str(item.size) for item in run.missing]
    assert sorted(sizes) == ["64x64"] * 4 + ["88x40"] * 2
    assert "6 of them are drawn first, into " in make_plan(run).facts["regularization"]
    assert not list(cache.rglob("*.png"))


@pytest.mark.slow
def test_missing_images_are_drawn_with_their_prompt_beside_them(options, tmp_path):
    folder = tmp_path / "dogs"
    planned = plan(options("out", f"regularization.path={folder}"))
    run = train(PLUGINS, *options("out", f"regularization.path={folder}"))
    assert list(drawn(folder)) == [f"{number:05d}.png" for number in range(6)]
    assert {path.read_text() for path in folder.glob("*.txt")} == {"a photo of a dog\n"}
    assert sorted(image.size for image in run.index.regularization) == [(64, 64)] * 4 + [(88, 40)] * 2
    assert run.missing == ()
    assert (run.timetable, run.bucket_counts()) == (planned.timetable, planned.bucket_counts())


@pytest.mark.slow
def test_a_second_start_draws_nothing(options, tmp_path, cache):
    train(PLUGINS, *options("one"))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")}
    assert len(before) == 6
    assert plan(options("two")).missing == ()
    train(PLUGINS, *options("two"))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.png")} == before


@pytest.mark.slow
def test_the_same_seed_draws_the_same_pictures(options, tmp_path):
    for name in ("a", "b"):
        train(PLUGINS, *options(f"out {name}", f"regularization.path={tmp_path / name}"))
    assert drawn(tmp_path / "a") == drawn(tmp_path / "b")


def test_only_what_is_missing_is_drawn(options, tmp_path):
    folder = tmp_path / "dogs"
    write_images(folder, 3, caption="a photo of a dog")
    write_images(folder / "not", 0)
    missing = plan(options("out", f"regularization.path={folder}")).missing
    assert sorted(str(item.size) for item in missing) == ["64x64", "88x40", "88x40"]


def test_images_of_another_prompt_do_not_count(options, tmp_path):
    write_images(tmp_path / "dogs", 3, caption="a dog on grass")
    assert len(plan(options("out", f"regularization.path={tmp_path / 'dogs'}")).missing) == 6


def test_filewords_makes_a_prompt_of_each_caption(options, tmp_path):
    (tmp_path / "data" / "00.txt").write_text("in the snow")
    more = ('regularization.prompt="a dog, [filewords]"', "regularization.generate.per_image=1")
    prompts = [item.prompt for item in plan(options("out", *more)).missing]
    assert sorted(prompts) == ["a dog, a photo of a zwx dog", "a dog, a photo of a zwx dog", "a dog, in the snow"]


def test_drawing_into_a_folder_of_folders_is_refused(options, tmp_path):
    write_images(tmp_path / "dogs" / "1_dog", 1)
    with pytest.raises(ConfigError, match="which has folders of its own"):
        plan(options("out", f"regularization.path={tmp_path / 'dogs'}"))


def test_what_is_drawn_needs_a_prompt(options):
    with pytest.raises(ConfigError, match=r"prompt must say what generate\.per_image draws"):
        plan(options("out", "regularization.prompt=---"))


@pytest.mark.slow
def test_each_concept_draws_the_images_of_its_own_class(options, tmp_path):
    write_images(tmp_path / "cat", 1, caption="a photo of a cat in the snow")
    subsets = (
        f"[{{path: {tmp_path / 'data'}, token: zwx, class_word: dog,"
        f" regularization: {{prompt: a dog, per_image: 1, path: {tmp_path / 'dogs'}}}}},"
        f" {{path: {tmp_path / 'cat'}, token: sks, class_word: cat,"
        f' regularization: {{prompt: "[filewords]", per_image: 2, path: {tmp_path / "cats"}}}}}]'
    )
    more = ("data.path=---", f"data.subsets={subsets}", "regularization.generate.per_image=0")
    run = train(PLUGINS, *options("out", *more, "regularization.prompt=---"))
    found = sorted((image.caption, image.subset.pairs_with) for image in run.index.regularization)
    assert found == [("a dog", ("data",))] * 3 + [("a photo of a cat in the snow", ("cat",))] * 2
    assert {image.caption for image in run.index.instances} == {
        "a photo of a zwx dog",
        "a photo of a sks cat in the snow",
    }
