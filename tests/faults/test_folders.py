"""Rows F17 to F19: whatever the folder is called, whoever removes files, however the clock jumps."""

import json
import os
import shutil
import time

import pytest

from sdtune.export.container import read_metadata
from sdtune.train.watching.observers import Observer

pytestmark = pytest.mark.slow

NAMES = {
    "255 bytes": "x" * 255,
    "spaces": " two  spaces ",
    "Chinese": "测试 文件夹",
    "emoji": "🐶👩‍🚀",
    "right to left": "שלום עולם",
    "trailing dot": "dot.",
}


class After(Observer):
    def __init__(self, act):
        self._act = act

    def on_step(self, run, report):
        if report.step == 3:
            self._act(run.folder)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_f17_a_folder_and_a_file_may_have_any_name(options, runs, tmp_path, name):
    folder, stem = tmp_path / name, name[:80]
    quoted = [json.dumps(text, ensure_ascii=False) for text in (str(folder), stem)]
    child = runs.command("train", *options, f"output.dir={quoted[0]}", f"output.name={quoted[1]}")
    assert child.wait() == 0, child.said.read_text()
    assert read_metadata(folder / "exports" / f"{stem}.safetensors")["ss_output_name"] == stem


def test_f17_a_missing_parent_is_made(options, runs, tmp_path):
    folder = tmp_path / "a" / "b" / "c"
    assert runs.command("train", *options, f"output.dir={folder}").wait() == 0
    assert (folder / "exports" / "thing.safetensors").is_file()


def test_f17_a_file_in_the_place_is_told_at_once(runs):
    runs.folder.write_text("mine")
    assert "is a file" in runs.check_told(runs.start(), 5)
    assert runs.folder.read_text() == "mine"


@pytest.mark.parametrize("place", ["/proc/run", "/sys/run"])
def test_f17_a_place_that_cannot_be_written_is_told(options, runs, place):  # also by root, whom no mode stops
    assert "cannot make the run folder" in runs.check_told(runs.command("train", *options, f"output.dir={place}"), 5)


def test_f17_a_folder_name_that_is_too_long_is_told_before_training(options, runs, tmp_path):
    child = runs.command("train", *options, f"output.dir={tmp_path / ('x' * 256)}")
    assert "too long" in runs.check_told(child, 5)


def test_f17_a_file_name_that_is_too_long_is_told_before_training(runs):
    assert "too long" in runs.check_told(runs.start(f"output.name={'字' * 90}"), 2)  # 270 bytes
    assert not runs.folder.exists()


@pytest.mark.parametrize("blocked", ["log.txt", "metrics.jsonl", "tensorboard"])
def test_f18_logs_that_cannot_be_written_are_told_at_the_start(runs, straight, blocked):
    shutil.copytree(straight, runs.folder)
    (runs.folder / blocked).unlink(missing_ok=True)
    if blocked == "tensorboard":
        (runs.folder / blocked).write_text("in the way")
    else:
        (runs.folder / blocked).mkdir()
    facts = {**json.loads((runs.folder / "run.json").read_text()), "state": "stopped"}
    (runs.folder / "run.json").write_text(json.dumps(facts))
    config = (runs.folder / "config.yaml").read_text()
    (runs.folder / "config.yaml").write_text(config.replace("tensorboard: false", "tensorboard: true"))
    assert "log" in runs.check_told(runs.resume(), 5)
    assert runs.steps == [4, 6]


REMOVE = {
    "metrics.jsonl": lambda folder: folder.metrics.unlink(),
    "tensorboard": lambda folder: shutil.rmtree(folder.tensorboard),
    "log.txt": lambda folder: folder.log.unlink(),
}


@pytest.mark.parametrize("what", REMOVE)
def test_f18_logs_removed_meanwhile_do_not_end_the_run(runs, what):
    child = runs.start("log.tensorboard=true", watch=[After(REMOVE[what])])
    assert child.wait() == 0
    assert len(child.warnings()) == (what != "log.txt")  # an open file that has lost its name is still written
    assert runs.steps == [4, 6]


DAY_S = 86_400


def move_clock(by_s):
    real = time.time
    time.time = lambda: real() + by_s


def change_to_summer_time(_=None):
    os.environ["TZ"] = "UTC-2"
    time.tzset()


JUMPS = {
    "a day back": lambda *_: move_clock(-DAY_S),
    "ten years on": lambda *_: move_clock(3650 * DAY_S),
    "summer time": change_to_summer_time,
}


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_f19_a_clock_that_jumps_changes_nothing(runs, straight, jump):
    assert runs.start(watch=[After(jump)]).wait() == 0
    facts = json.loads((runs.folder / "run.json").read_text())
    metadata = read_metadata(runs.folder / "exports" / "thing.safetensors")
    lines = [json.loads(line) for line in (runs.folder / "metrics.jsonl").read_text().splitlines()]
    assert facts["finished_at"] >= facts["started_at"]
    assert float(metadata["ss_training_finished_at"]) >= float(metadata["ss_training_started_at"])
    assert all(line["seconds"] >= 0 for line in lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_f19_resume_takes_the_highest_step_whatever_the_clock_says(faults, runs, straight, jump):
    assert runs.start("--stop-after", "4").wait() == 75
    newest = runs.folder / "checkpoints" / "step-00000004"
    os.utime(newest, (0, 0))
    child = runs.resume(before=jump)
    assert child.wait() == 0
    assert "going on after step 4" in child.said.read_text()
    assert runs.losses == faults.losses(straight)
