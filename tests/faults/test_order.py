"""Row F47: hardly any images, or none, or none wanted."""

import re

import pytest

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import command


@pytest.fixture
def told(tmp_path, capsys):
    """Ask for the plan of a run; give the exit code and what was said."""

    def told(*words):
        options = ["method=lora", "model.path=demo", "data.resolution=64", "train.epochs=3", "train.batch_size=4"]
        where = [f"output.dir={tmp_path / 'run'}", "log.forecast=false"]
        code = command([sdtune_lora], "train", "--dry-run", *options, *where, *words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return told


def steps(text):
    return re.search(r"^steps +(.*)$", text, re.MULTILINE)[1]


def test_f47_an_empty_data_set_is_told(told, tmp_path):
    (tmp_path / "data").mkdir()
    code, said = told(f"data.path={tmp_path / 'data'}")
    assert code == 3
    assert "no images in" in said


@pytest.mark.slow
def test_f47_one_image_trains_in_one_step_an_epoch(told, tmp_path):
    write_images(tmp_path / "data", 1)
    code, said = told(f"data.path={tmp_path / 'data'}")
    assert code == 0
    assert steps(said) == "1 visits in batches of 4 = 1 batches an epoch, 1 a step = 1 steps; 3 steps = 3 epochs"


@pytest.mark.slow
def test_f47_fewer_images_than_a_batch_are_one_short_batch(told, tmp_path):
    write_images(tmp_path / "3_dog", 1)
    code, said = told(f"data.path={tmp_path / '3_dog'}")
    assert code == 0
    assert steps(said).startswith("3 visits in batches of 4 = 1 batches an epoch")


@pytest.mark.parametrize("repeats", ["0", "-1", "0.0", "nan"])
def test_f47_no_repeats_are_a_wrong_option(told, tmp_path, repeats):
    write_images(tmp_path / "data", 1)
    code, said = told(f"data.subsets=[{{path: {tmp_path / 'data'}, repeats: {repeats}}}]")
    assert code == 2
    assert "repeats" in said


@pytest.mark.slow
def test_f47_less_than_one_repeat_is_told_in_steps(told, tmp_path):
    write_images(tmp_path / "data", 10)
    code, said = told(f"data.subsets=[{{path: {tmp_path / 'data'}, repeats: 0.3}}]", "train.batch_size=2")
    assert code == 0
    assert "data: 10 x 0.3 repeats" in said
    assert steps(said).startswith("3 visits in batches of 2 = 2 batches an epoch")
