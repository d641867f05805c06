import os
import signal

import pytest

from sdtune.errors import StoppedError
from sdtune.train.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_only_asks(number):
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.is_raised
        with pytest.raises(StoppedError):
            stop.check()


def test_a_second_signal_ends_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
