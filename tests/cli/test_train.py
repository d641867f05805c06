"""`sdtune train` as a user meets it: flags, the plan, and one clear line for each mistake."""

import json
import re
from pathlib import Path

import pytest

import sdtune_lora
from sdtune.cli.main import run
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.tiny import tiny_sd1

PHOTOGRAPHS = Path(__file__).resolve().parents[3] / "shared" / "data" / "dreambooth"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    write_images(folder, 2)
    return folder


@pytest.fixture
def sdtune(model, tmp_path, capsys):
    def call(*words, method="lora"):
        words = [
            *("train", "--method", method, "--model", str(model), "--output", str(tmp_path / "out")),
            *(
                "--resolution",
                "64",
                "--steps",
                "2",
                "data.cache.latents=ram",
                "log.tensorboard=false",
                "log.forecast=false",
            ),
            *words,
        ]
        code = run(words, Registry.from_plugins([sdtune_lora]))
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def only_error(err):
    lines = [line for line in err.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    return lines[0]


def test_a_run_ends_well_and_says_where_the_file_is(sdtune, images, tmp_path):
    code, _, err = sdtune("--data", str(images), "--rank", "2")
    assert code == 0
    assert f"saved: {tmp_path / 'out' / 'exports' / 'images-lora.safetensors'}" in err
    assert "step 2/2" in err


def test_a_dry_run_shows_the_plan_and_writes_nothing(sdtune, images, tmp_path):
    code, out, _ = sdtune("--data", str(images), "--dry-run")
    assert code == 0
    assert "2 steps = 1 epochs" in out
    assert "unet          unet" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_plan_comes_as_json_too(model, images, capsys):
    words = ["plan", "--method", "lora", "--model", str(model), "--data", str(images), "--steps", "2", "--json"]
    assert run(words, Registry.from_plugins([sdtune_lora])) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["steps"] == 2
    assert [group["modules"] for group in plan["trained"]] == [192, 12]


def test_the_methods_flags_are_in_the_help(capsys):
    assert run(["train", "--method", "lora", "--help"], Registry.from_plugins([sdtune_lora])) == 0
    assert "--rank" in capsys.readouterr().out


MISTAKES = {
    "a misspelt option": (["lora.rnak=4"], 2, "lora.rnak: unknown option; did you mean 'rank'? (lora.rnak=4)"),
    "text for a number": (["--steps", "many"], 2, "train.steps: expected a whole number, got 'many' (--steps)"),
    "a number too small": (["--lr", "-1"], 2, "train.lr: must be"),
    "a missing folder": (["--data", "nowhere"], 3, "nowhere"),
    "a missing model": (["--model", "nowhere.safetensors"], 4, "nowhere.safetensors"),
    "no length": (["train.steps=null"], 2, "no length given"),
}


@pytest.mark.parametrize(("words", "code", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_its_place(sdtune, images, words, code, message):
    found, _, err = sdtune("--data", str(images), *words)
    assert found == code
    assert message in only_error(err)


def test_an_unknown_method_names_the_near_one(capsys):
    assert run(["train", "--method", "lorra"], Registry.from_plugins([sdtune_lora])) == 2
    assert "did you mean 'lora'" in capsys.readouterr().err


def test_all_mistakes_are_told_at_once(sdtune, images):
    code, _, err = sdtune("--data", str(images), "lora.rnak=4", "train.sed=1", "--lr", "fast")
    assert code == 2
    assert err.count("error:") == 3


def test_a_folder_without_images_is_named(sdtune, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = sdtune("--data", str(tmp_path / "empty"))
    assert code == 3
    assert "empty" in only_error(err)


def test_a_corrupt_image_is_named_before_anything_is_made(sdtune, images, tmp_path):
    (images / "00.png").write_bytes((images / "00.png").read_bytes()[:60])
    code, _, err = sdtune("--data", str(images))
    assert code == 3
    assert "00.png" in only_error(err)


def test_missing_captions_ask_for_a_choice(sdtune, images):
    for caption in images.glob("*.txt"):
        caption.unlink()
    code, _, err = sdtune("--data", str(images))
    assert code == 3
    assert "data.captions=class_text" in err


@pytest.mark.slow
def test_stopping_exits_75_and_resuming_goes_on(sdtune, images, tmp_path, capsys):
    code, _, err = sdtune("--data", str(images), "--stop-after", "1")
    assert code == 75
    assert "stopped after step 1 of 2" in err
    assert run(["train", "--resume", str(tmp_path / "out")], Registry.from_plugins([sdtune_lora])) == 0
    assert "going on after step 1 of 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_not_overwritten_unasked(sdtune, images):
    assert sdtune("--data", str(images))[0] == 0
    code, _, err = sdtune("--data", str(images))
    assert code == 2
    assert "--overwrite" in only_error(err)
    assert sdtune("--data", str(images), "--overwrite")[0] == 0


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the photographs are not here")
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat", "numbered"])
def test_photographs_are_trained_on(sdtune, tmp_path, layout):
    words = ["--data", str(PHOTOGRAPHS / "dog6"), "data.captions=class_text", "data.class_text=photo of zwx dog"]
    if layout == "numbered":
        folder = tmp_path / "img" / "10_dog"
        folder.mkdir(parents=True)
        for path in sorted((PHOTOGRAPHS / "dog6").glob("*.jpg")):
            (folder / path.name).write_bytes(path.read_bytes())
            (folder / path.with_suffix(".txt").name).write_text("photo of zwx dog\n")
        words = ["--data", str(folder.parent)]
    code, _, err = sdtune(*words, "--rank", "2")
    assert code == 0
    assert re.search(r"^images +5 \(", err, re.MULTILINE)
