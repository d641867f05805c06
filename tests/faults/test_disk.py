"""Rows F14 to F16: a full disk costs the file that did not fit, and nothing that was there."""

import errno
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest

from sdtune.train.watching.observers import Observer

pytestmark = pytest.mark.slow


class At(Observer):
    """Do something after a step."""

    def __init__(self, step, act):
        self._step = step
        self._act = act

    def on_step(self, run, report):
        if report.step == self._step:
            self._act(run)


def limit_files(_):
    """Let no file grow beyond what the logs need: the kernel then refuses as it does on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


def refuse_writing(part):
    """Let every file whose path has `part` in it meet a full disk."""

    def hook(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if writes and part in str(args[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda *_: sys.addaudithook(hook)


def onto_full(part):
    """Point open files whose path has `part` in it at a device that is always full."""

    def act(_):
        full = os.open("/dev/full", os.O_WRONLY)
        for entry in Path("/proc/self/fd").iterdir():
            if part in os.path.realpath(entry):
                os.dup2(full, int(entry.name))

    return act


def test_f14_a_full_disk_keeps_the_first_save(runs, straight):
    line = runs.check_told(runs.start(watch=[At(3, limit_files)]), 5)
    assert "the checkpoint is not saved" in line
    assert "are needed" in line
    assert "are free" in line
    assert "--resume" in line
    assert runs.state == "failed"
    runs.check_intact(2)
    runs.check_goes_on(straight)


def test_f14_the_first_failure_is_told_when_the_status_cannot_be_written_either(runs, straight):
    line = runs.check_told(runs.start(watch=[At(3, refuse_writing(".sdtune-"))]), 5)
    assert "the checkpoint is not saved" in line
    runs.check_intact(2)
    runs.check_goes_on(straight)


def test_f15_a_file_that_does_not_fit_leaves_the_state_saved(runs, straight):
    line = runs.check_told(runs.start(watch=[At(5, refuse_writing("exports/.sdtune"))]), 5)
    assert "exports" in line
    assert "make room" in line
    runs.check_intact(4, 6)
    runs.check_goes_on(straight)


def test_f15_the_file_of_an_epoch_that_does_not_fit_leaves_the_state_saved(runs):
    more = ("save.every_epochs=1", "train.batch_size=3", "save.every_steps=100")  # an epoch of three steps
    assert "exports" in runs.check_told(runs.start(*more, watch=[At(1, refuse_writing("exports/.sdtune"))]), 5)
    runs.check_intact(3)


LOST = {
    "metrics": (At(3, refuse_writing("metrics.jsonl")), "MetricsObserver is switched off"),
    "log": (At(1, onto_full("log.txt")), "log.txt is not written any more"),
    "events": (At(2, refuse_writing("events.out")), "TensorBoardObserver is switched off"),
    "pictures": (At(1, refuse_writing("previews/.sdtune")), "PreviewObserver is switched off"),
}


@pytest.mark.parametrize("lost", LOST)
def test_f15_what_is_only_shown_is_one_warning(faults, runs, straight, lost):
    watch, text = LOST[lost]
    shown = ("log.tensorboard=true", "preview.prompts=[a]", "preview.steps=1", "preview.every_steps=2")
    child = runs.start(*shown, watch=[watch])
    assert child.wait() == 0
    (warning,) = child.warnings()
    assert text in warning
    assert not child.errors()
    assert (runs.folder / "exports" / "thing.safetensors").is_file()
    assert runs.steps == [4, 6]


def test_f16_too_little_space_is_told_before_the_first_step(runs, monkeypatch):
    def stub():
        shutil.disk_usage = lambda _: shutil._ntuple_diskusage(10**12, 10**12 - 10**5, 10**5)

    line = runs.check_told(runs.start(before=stub), 5)
    assert "the run needs about" in line
    assert "checkpoints" in line
    assert "100 kB are free" in line
    assert not runs.folder.exists()


def test_a_cache_that_vanishes_costs_no_step(runs, straight, tmp_path):
    lost = At(3, lambda _: shutil.rmtree(tmp_path / "cache"))
    more = [f"data.cache.dir={tmp_path / 'cache'}", "data.workers=0"]  # else all is read by then
    line = runs.check_told(runs.start(*more, watch=[lost]), 5)
    assert "gone or damaged; resume" in line
    runs.check_intact(2, 3)
    runs.check_goes_on(straight)


def test_a_terminal_that_is_gone_does_not_end_the_run(faults, runs, straight):
    def close_terminal():
        reader, writer = os.pipe()
        os.close(reader)
        sys.stderr = os.fdopen(writer, "w", buffering=1)

    assert runs.start(before=close_terminal).wait() == 0
    assert runs.losses == faults.losses(straight)
    assert runs.state == "done"
