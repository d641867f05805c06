"""Whole probes on a tiny model: what they find, what they leave behind, and a training with what was found."""

import json
import os
import signal

import pytest

import sdtune_lora
from sdtune.config.compose import load
from sdtune.errors import NumericsError
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import command
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.rate_search import comparison, plateau
from sdtune.train.rate_search.found_rate import RateLog
from sdtune.train.rate_search.trial import train_trial

PLUGINS = [sdtune_lora]
pytest.importorskip("prodigyopt")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder, 16)
    return folder


@pytest.fixture
def sdtune(model, images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words, run=("lr", "probe"), data=images):
        asked = ["--method", "lora", "--model", str(model), "--data", str(data), "--resolution", "64"]
        more = ["--rank", "2", "data.cache.latents=ram", "train.steps=400", "output.name=thing"]
        code = command(PLUGINS, *run, *asked, *more, *words)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def diverging(number):
    """Train, and find the last of several trainings to have gone wrong."""
    calls = []

    def train(*words):
        calls.append(words)
        train_trial(*words)
        if len(calls) == number:
            raise NumericsError("the loss of step 3 is nan")

    return train


@pytest.mark.slow
def test_a_probe_finds_a_rate_that_a_training_takes(sdtune, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(comparison, "train_trial", diverging(3))
    for name, steps in (("FEWEST_STEPS", 20), ("_FEWEST_FLAT", 3), ("_FLAT_SHARE", 0)):  # a short pause is enough
        monkeypatch.setattr(plateau, name, steps)
    pytest.importorskip("dadaptation")
    file = tmp_path / "found.yaml"
    words = (
        "--steps",
        "80",
        "--optimizer",
        "dadapt_adam",
        "--compare",
        "3",
        "--compare-steps",
        "3",
        "--write",
        str(file),
    )
    code, out, err = sdtune(*words)
    assert code == 0, err
    folder = tmp_path / "runs" / "thing-probe"
    facts = json.loads((folder / "run.json").read_text())
    value = facts["learning_rate"]["found"]["unet"]
    # told: the cost before it is spent, then value, range and both notations
    assert "then 3 short runs of 3 steps with adamw" in err
    assert f"learning rate: {value['rate']:.2e} = 0." in out
    assert "range to try" in out
    # the log: one factor for all groups (trap T15), kohya's tags, and the probe's own end
    steps = lines(folder)
    assert {(line["lr/unet"], line["lr/text_encoder"]) for line in steps} == {(1.0, 1.0)}
    assert all(line["lr/d*lr"] == line["lr/d*lr/unet"] == line["lr/d*lr/text_encoder"] for line in steps)
    assert value["is_settled"]
    assert 20 <= len(steps) < 120
    assert facts["state"] == "done"
    # nothing else is left
    names = {path.name for path in folder.iterdir()}
    assert not names & {"checkpoints", "exports", "previews", "validation.jsonl"}
    # what is read later is what was told
    assert command(PLUGINS, "lr", "read", str(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["unet"] == value
    # held-out images chose among the rates, and the file has what they chose
    best = facts["learning_rate"]["rate"]
    compared = facts["learning_rate"]["comparison"]
    assert [row["rate"] for row in compared["outcomes"]][1] == value["rate"]
    assert compared["outcomes"][2]["loss"] is None
    assert "  diverged" in out
    assert best == min(compared["outcomes"][:2], key=lambda row: row["loss"])["rate"]
    options = load(Registry.from_plugins(PLUGINS), file).options
    assert (options.train.lr, options.lora.unet_lr) == (best, best)
    assert options.lora.text_encoder_lr == pytest.approx(best / 10, rel=1e-2)
    assert options.validation.split is None
    # and a training takes it
    trained = ("--output", str(tmp_path / "out"), "train.steps=2", "output.certify=false", "log.forecast=false")
    assert command(PLUGINS, "train", "--config", str(file), *trained) == 0
    assert lines(tmp_path / "out")[-1]["lr/unet"] == best


@pytest.mark.slow
def test_an_estimate_that_does_not_begin_is_told_and_writes_nothing(sdtune, tmp_path):
    file = tmp_path / "found.yaml"
    code, out, err = sdtune("--steps", "5", "--compare", "0", "--write", str(file))
    assert code == 6
    assert "no rate found in 5 steps: d is 1e-06, about where it began; give more --steps, or --optimizer" in err
    assert out == ""
    assert not file.exists()
    assert command(PLUGINS, "lr", "read", str(tmp_path / "runs" / "thing-probe")) == 0


@pytest.mark.slow
def test_a_part_without_a_rate_stays_frozen_and_few_images_are_not_compared(sdtune, tmp_path):
    pytest.importorskip("dadaptation")
    few = tmp_path / "few"
    write_images(few, 3)
    words = ("--steps", "30", "--optimizer", "dadapt_adam", "lora.text_encoder_lr=0")
    code, out, err = sdtune(*words, data=few)
    assert code == 0, err
    assert "not enough data, 16 images are needed" in err
    assert "no plateau yet after 30 steps" in out
    assert "text encoder" not in out
    assert all("lr/text_encoder" not in line for line in lines(tmp_path / "runs" / "thing-probe"))


@pytest.mark.slow
def test_a_probe_that_is_stopped_says_how_to_read_it_and_cannot_go_on(sdtune, tmp_path, monkeypatch, capsys):
    add = RateLog.add

    def stop_at_step_4(log, step, rates):
        add(log, step, rates)
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)  # SIGINT may be ignored, as in the background of a shell

    folder = tmp_path / "runs" / "thing-probe"
    monkeypatch.setattr(RateLog, "add", stop_at_step_4)
    code, out, err = sdtune("--compare", "0", "train.steps=---", "--epochs", "2")
    assert (code, out) == (75, "")
    assert "at most 32 steps" in err
    assert (
        f"stopped after 4 steps of a trial; what was found so far: sdtune lr read {folder.relative_to(tmp_path)}" in err
    )
    assert json.loads((folder / "run.json").read_text())["state"] == "stopped"
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4]
    monkeypatch.setattr(RateLog, "add", add)
    assert command(PLUGINS, "lr", "read", str(folder)) == 0
    assert "no rate found in 4 steps" in capsys.readouterr().out
    assert command(PLUGINS, "train", "--resume", str(folder)) == 2
    assert "this is a probe of the learning rate, which cannot go on; start it again" in capsys.readouterr().err
