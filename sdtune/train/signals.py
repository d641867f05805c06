"""Stop requests: a first signal asks politely, a second one ends at once."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any

from sdtune.errors import StoppedError

if TYPE_CHECKING:
    from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Catch SIGINT and SIGTERM while it is entered.

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
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise `StoppedError` if a stop was asked for; for places where nothing needs saving."""
        if self.is_raised:
            raise StoppedError("stopped before the first step", hint="start the run again")

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.is_raised and not self._is_patient:
            raise KeyboardInterrupt
        self.is_raised = True
