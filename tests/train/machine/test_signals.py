import os
import signal
from pathlib import Path

import pytest

from sdtune.errors import StoppedError
from sdtune.train.machine.signals import SIGNALS, StopRequest


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    """Undo what a shell's background or `nohup` has set for the whole of the tests."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_first_signal_only_asks(number):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.is_raised
        with pytest.raises(StoppedError, match="--resume runs/a"):
            stop.check(Path("runs/a"))


def test_a_second_interrupt_ends_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_one_signal_of_a_scheduler_after_another_only_asks():
    with StopRequest() as stop:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert stop.is_raised


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_raised
