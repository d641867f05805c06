"""Rows F20 and F21: one process trains a run; when it is gone, the next takes over."""

import errno
import os
import signal
import socket

import pytest

from sdtune.errors import PlatformError
from sdtune.train.saving import lock
from sdtune.train.saving.lock import Owner, RunLock
from sdtune.train.watching.observers import Observer


class Pause(Observer):
    """Tell the parent that step 3 is done, and wait for its answer."""

    def __init__(self):
        self.here, self.there = os.pipe(), os.pipe()

    def on_step(self, run, report):
        if report.step == 3:
            os.write(self.there[1], b"x")
            os.read(self.here[0], 1)

    def wait(self):
        os.read(self.there[0], 1)

    def go(self):
        os.write(self.here[1], b"x")


@pytest.mark.slow
def test_f20_a_second_process_is_refused_and_the_first_goes_on(faults, runs, straight):
    pause = Pause()
    first = runs.start(watch=[pause])
    pause.wait()
    for second in (runs.resume(), runs.start()):
        assert f"being trained by process {first.pid} on {socket.gethostname()}" in runs.check_told(second, 5)
    pause.go()
    assert first.wait() == 0
    assert runs.losses == faults.losses(straight)


@pytest.mark.slow
def test_f21_a_run_is_taken_over_from_a_process_that_was_killed(runs, straight):
    pause = Pause()
    first = runs.start(watch=[pause])
    pause.wait()
    assert first.kill(0) == -signal.SIGKILL
    runs.check_goes_on(straight)
    assert f"taken over from process {first.pid} on" in (runs.folder / "log.txt").read_text()


@pytest.fixture
def without_locks(monkeypatch):
    def refuse(_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "try_lock", refuse)


HERE = Owner.here()
DEAD = {
    "before the computer was started": Owner(pid=os.getpid(), host=HERE.host, boot="another"),
    "a number nobody has": Owner(pid=2**22 + 1, host=HERE.host, boot=HERE.boot),
}


@pytest.mark.parametrize("owner", DEAD.values(), ids=DEAD)
def test_f21_without_locks_a_dead_owner_is_followed(tmp_path, without_locks, owner):
    (tmp_path / ".lock").write_text(owner.write())
    with RunLock(tmp_path) as held:
        assert held.left_by == owner
        assert Owner.read((tmp_path / ".lock").read_text()) == HERE


@pytest.mark.parametrize("owner", [HERE, Owner(pid=1, host="elsewhere", boot="any")], ids=["here", "elsewhere"])
def test_f21_without_locks_an_owner_that_may_live_is_respected(tmp_path, without_locks, owner):
    (tmp_path / ".lock").write_text(owner.write())
    with pytest.raises(PlatformError, match=rf"by process {owner.pid} on {owner.host}"), RunLock(tmp_path):
        pass


def test_f21_an_owner_that_let_go_leaves_no_name(tmp_path):
    with RunLock(tmp_path):
        assert Owner.read((tmp_path / ".lock").read_text()) == HERE
    with RunLock(tmp_path) as held:
        assert held.left_by is None
