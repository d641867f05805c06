"""Stop requests: a signal asks politely; Ctrl-C after that ends at once."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from sdtune.errors import StoppedError

if TYPE_CHECKING:
    from pathlib import Path
    from types import FrameType

# SIGUSR1: what Slurm sends ahead of time with --signal=USR1@60; SIGHUP: the terminal is gone. Windows has neither.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SIGNALS = tuple(signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__)


class StopRequest:
    """Catch the signals that ask a program to end, while it is entered.

    A signal that is ignored stays ignored: by `nohup`, or in a shell's background.

    Args:
        is_patient: A second signal does not end at once; torchrun sends one to all when one process has left.

    Attributes:
        is_raised: Whether a stop was asked for.
    """

    def __init__(self, *, is_patient: bool = False) -> None:
        self._is_patient = is_patient
        self.is_raised = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            found = {number: signal.getsignal(number) for number in SIGNALS}
            self._previous = {number: was for number, was in found.items() if was not in (signal.SIG_IGN, None)}
            for number in self._previous:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self, folder: Path) -> None:
        """Raise `StoppedError` if a stop was asked for; for places where nothing needs saving.

        Args:
            folder: The run's.
        """
        if self.is_raised:
            raise StoppedError("stopped before the first step", hint=f"go on with: sdtune train --resume {folder}")

    def _note(self, number: int, _: FrameType | None) -> None:
        # A scheduler may send one signal after another; only a person who presses Ctrl-C again wants no saving.
        if self.is_raised and number == signal.SIGINT and not self._is_patient:
            raise KeyboardInterrupt
        self.is_raised = True
