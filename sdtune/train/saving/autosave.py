"""When to save by the clock, so that a run that is killed loses minutes and not hours."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_SHARE = 1 / 20  # of the time; a checkpoint of 30 GB every five minutes would cost a run more than a crash does


class SaveClock:
    """Tells when a save is due, by a clock that only goes forward.

    Args:
        every_minutes: Time between two saves; a save that takes long is due less often, so that saving takes a
            twentieth of the time at most. None: never due.
    """

    def __init__(self, every_minutes: float | None) -> None:
        self._every_s = math.inf if every_minutes is None else every_minutes * 60
        self._saved_at = time.monotonic()
        self._took_s = 0.0

    @property
    def is_due(self) -> bool:
        """Whether so much time has passed since the last save."""
        return time.monotonic() - self._saved_at >= max(self._every_s, self._took_s / LARGEST_SHARE)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Measure a save, and count from its end."""
        started = time.monotonic()
        yield
        self._saved_at = time.monotonic()
        self._took_s = self._saved_at - started

    @property
    def took_ms(self) -> float:
        """How long the last save took."""
        return self._took_s * 1000
