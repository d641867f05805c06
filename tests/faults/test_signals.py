"""Rows F23 and F24: whoever asks a run to stop finds it saved, and it goes on as if nothing had been."""

import os
import signal

import pytest

from sdtune.cli.progress import ConsoleScreen
from sdtune.train.planning import fitting
from sdtune.train.saving import checkpoint
from sdtune.train.watching.observers import Observer

pytestmark = pytest.mark.slow


class Ask(Observer):
    """Send this process a signal after step 3."""

    def __init__(self, number):
        self._number = number

    def on_step(self, run, report):
        if report.step == 3:
            os.kill(os.getpid(), self._number)


def before_calls_of(owner, name, act):
    """Do something before a function of sdtune; in a child, which is not used any further."""
    inner = getattr(owner, name)

    def outer(*args, **kwargs):
        act()
        return inner(*args, **kwargs)

    setattr(owner, name, outer)


MOMENTS = {
    "while saving": (checkpoint, "_write", [2]),
    "while filling caches": (ConsoleScreen, "caching", []),
    "before step 1": (fitting, "assemble", []),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1], ids=lambda number: number.name)
@pytest.mark.parametrize("moment", ["at step 3", *MOMENTS])
def test_f23_a_signal_saves_and_the_run_goes_on(runs, straight, tmp_path, moment, number):
    def arm():
        if moment in MOMENTS:
            owner, name, _ = MOMENTS[moment]
            once = [None]
            before_calls_of(owner, name, lambda: once and (once.pop(), os.kill(os.getpid(), number)))

    child = runs.start(
        f"data.cache.dir={tmp_path / 'cache'}", watch=[Ask(number)] if moment == "at step 3" else [], before=arm
    )
    assert "--resume" in runs.check_told(child, 75)
    assert runs.state == "stopped"
    runs.check_intact(*([2, 3] if moment == "at step 3" else MOMENTS[moment][2]))
    runs.check_goes_on(straight)


def test_f24_a_second_interrupt_while_saving_ends_at_once(runs, straight):
    def arm():
        def interrupt_second_save():
            saves.append(None)
            if len(saves) == 2:  # the one of step 3, that the first interrupt asked for
                os.kill(os.getpid(), signal.SIGINT)

        saves: list[None] = []
        before_calls_of(checkpoint, "_write", interrupt_second_save)

    runs.check_told(runs.start(watch=[Ask(signal.SIGINT)], before=arm), 130)
    runs.check_intact(2)
    runs.check_goes_on(straight)
