"""Time that only goes forward, told as times of day."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Clock:
    """A clock set once by the system's: later changes to that one, and summer time, do not move it.

    Attributes:
        started_at: When it was set, Unix seconds.
    """

    started_at: float = field(default_factory=time.time)
    _origin: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        """Give the time, Unix seconds, never before `started_at`."""
        return self.started_at + time.monotonic() - self._origin
