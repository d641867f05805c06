"""`sdtune lr` as a user meets it: what is refused before anything is trained."""

import json
import sys

import pytest

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import command


@pytest.fixture
def sdtune(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 1)

    def call(*words, run=("probe", "--method", "lora", "--model", "none", "--data", "images", "output.name=thing")):
        length = ["train.steps=40"] if run[0] == "probe" else []
        code = command([sdtune_lora], "lr", *run, *length, *words)
        err = capsys.readouterr().err
        assert "Traceback" not in err
        return code, err

    return call


def test_a_file_that_is_there_is_refused_before_anything_is_trained(sdtune, tmp_path):
    file = tmp_path / "found.yaml"
    file.write_text("mine")
    code, err = sdtune("--write", str(file))
    assert code == 2
    assert f"error: {file} exists; give --write another name" in err
    assert file.read_text() == "mine"
    assert not (tmp_path / "runs").exists()


def test_a_file_needs_the_length_of_the_run(sdtune, tmp_path):
    code, err = sdtune("--write", str(tmp_path / "found.yaml"), "train.steps=---")
    assert code == 2
    assert "--write needs the length of the run; give train.steps=800, or --epochs 10" in err


def test_a_run_in_the_folder_stays(sdtune, tmp_path):
    folder = tmp_path / "runs" / "thing-probe"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    code, err = sdtune()
    assert code == 2
    assert "a run is in the output folder already" in err


def test_a_missing_package_is_one_line(sdtune, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prodigyopt.prodigy", None)
    code, err = sdtune()
    assert code == 5
    assert "prodigy needs the package prodigyopt; pip install 'sdtune[optim]'" in err
    assert not (tmp_path / "runs").exists()


def test_a_method_has_its_flags_here_too(capsys):
    assert command([sdtune_lora], "lr", "probe", "--method", "lora", "--help") == 0
    told = capsys.readouterr().out
    assert "--rank" in told
    assert "The most steps it may take" in told


def test_a_probe_has_a_folder_of_its_own_beside_the_runs(sdtune, tmp_path):
    (tmp_path / "mine-probe").mkdir()
    (tmp_path / "mine-probe" / "note.txt").write_text("mine")
    code, err = sdtune("output.dir=mine")
    assert code == 2
    assert "the output folder is not empty, and no run of sdtune; choose another --output (mine-probe)" in err


def test_a_run_that_found_no_rate_is_told(sdtune, tmp_path):
    for name, text in (("run.json", "{}"), ("config.yaml", ""), ("metrics.jsonl", json.dumps({"step": 1, "lr/u": 1}))):
        (tmp_path / name).write_text(text)
    code, err = sdtune(run=("read", str(tmp_path)))
    assert code == 2
    assert "the optimizer of this run finds no learning rate" in err


def test_a_run_that_is_not_there_is_told(sdtune):
    code, err = sdtune(run=("read", "nowhere"))
    assert code == 2
    assert "no run 'nowhere'" in err
