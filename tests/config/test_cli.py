from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from sdtune.cli.config import config


@pytest.fixture
def run(registry, tmp_path, monkeypatch):
    """Run `sdtune config ...`; an error is raised, as main.py expects."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(config, words, obj=registry)


def test_show_tells_values_and_origins(run):
    Path("run.yaml").write_text("train: {lr: 1}", encoding="utf-8")
    lines = [line.split() for line in run("show", "run.yaml", "train.steps=5").output.splitlines()]
    assert ["train.lr", "=", "1.0", "run.yaml:1"] in lines
    assert ["train.steps", "=", "5", "train.steps=5"] in lines
    assert ["train.seed", "=", "0", "default"] in lines


def test_show_writes_json(run):
    rows = json.loads(run("show", "--json", "--method", "ti", "words.token=é").output)
    assert rows["words.token"] == {"value": "é", "origin": "words.token=é"}
    assert rows["method"] == {"value": "words", "origin": "--method"}


def test_check_is_quiet_about_a_good_file_and_raises_all_problems_of_a_bad_one(run):
    Path("run.yaml").write_text("train: {lr: 1}", encoding="utf-8")
    assert (run("check", "run.yaml").exit_code, run("check", "run.yaml").output) == (0, "No problems: a run of lora.\n")
    assert str(run("check", "run.yaml", "train.lr=x", "a=1").exception).count("\n") == 1


def test_one_file_only(run):
    assert "expected one file, got a.yaml, b.yaml" in str(run("check", "a.yaml", "b.yaml").exception)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.lr", "train.lr  (number or text, 0 to 1000; default 0.0001)\n    Learning rate where"),
        ("lora", "lora  (section)\n    Low-rank matrices.\nlora.rank  (whole number, 1 to 1024; default 16)\n"),
        ("words.token", "words.token  (text; must be given)\n    The new word.\n"),
        ("data.subsets.0.path", "data.subsets.N.path  (path; must be given)\n"),
    ],
)
def test_explain_tells_type_default_and_meaning(run, name, text):
    assert run("explain", name).output.startswith(text)


def test_explain_without_a_name_tells_everything(run):
    names = [line.split()[0] for line in run("explain").output.splitlines() if not line.startswith(" ")]
    assert {"method", "train", "train.lr", "lora.rank", "words.token"} <= set(names)
    assert len(names) == len(set(names))


def test_explain_suggests_a_name(run):
    assert str(run("explain", "train.stesp").exception) == "no option 'train.stesp'; did you mean 'steps'?"


def test_schema_is_json_with_the_section_of_the_method(run):
    assert {"train", "words"} <= set(json.loads(run("schema", "--method", "ti").output)["properties"])


@pytest.mark.parametrize("level", ["novice", "expert"])
def test_new_writes_a_file_that_checks(run, level):
    assert run("new", "--level", level, "-o", "run.yaml").exit_code == 0
    assert run("check", "run.yaml").exit_code == 0


def test_new_overwrites_nothing(run):
    Path("run.yaml").write_text("mine", encoding="utf-8")
    assert str(run("new", "-o", "run.yaml").exception) == "run.yaml exists; give -o another name"
    assert Path("run.yaml").read_text(encoding="utf-8") == "mine"
