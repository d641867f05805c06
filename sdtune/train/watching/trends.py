"""Detectors of slow change, on plain numbers: steps that became slow, memory that grows, updates of a wrong size."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

_WARMUP = 3  # steps that compile, tune and allocate
_FEWEST = 10  # steps that make a median
_KEPT = 50
_SLOW, _SLOW_ROW = 3.0, 5

_WINDOW, _WINDOWS = 10, 5
_RISE_BYTES, _RISE_SHARE = 256 * 2**20, 0.1

_RATIO_ROW = 3
_TOO_LARGE, _TOO_SMALL = 0.1, 1e-8


@dataclass(slots=True)
class Pace:
    """Finds the point where steps become slow and stay so.

    Attributes:
        seen: Steps so far.
        usual: Seconds of steps that were not slow.
        slow: Seconds of the slow ones in a row.
    """

    seen: int = 0
    usual: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    slow: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> tuple[float, float] | None:
        """Take in a step; give usual and present seconds once five in a row took three times the median."""
        self.seen += 1
        if self.seen <= _WARMUP:
            return None
        if len(self.usual) < _FEWEST or seconds < _SLOW * median(self.usual):
            self.usual.append(seconds)
            self.slow.clear()
            return None
        self.slow.append(seconds)
        return (median(self.usual), median(self.slow)) if len(self.slow) >= _SLOW_ROW else None


@dataclass(slots=True)
class Growth:
    """Finds memory that never stops growing: its lowest values over ten looks rise five times in a row.

    Attributes:
        window: Steps and bytes of the looks since the last lowest value.
        lows: Lowest values so far, with their steps.
    """

    window: list[tuple[int, int]] = field(default_factory=list)
    lows: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_WINDOWS + 1))

    def add(self, step: int, size_bytes: int) -> tuple[int, int, int] | None:
        """Take in a look; give first step, bytes gained since, and steps between once they rise far and steadily."""
        self.window.append((step, size_bytes))
        if len(self.window) < _WINDOW:
            return None
        self.lows.append(min(self.window, key=lambda look: look[1]))
        self.window.clear()
        sizes = [low for _, low in self.lows]
        gained = sizes[-1] - sizes[0]
        rises = all(first < second for first, second in pairwise(sizes))
        if len(sizes) <= _WINDOWS or not rises or gained < max(_RISE_BYTES, _RISE_SHARE * sizes[0]):
            return None
        return self.lows[0][0], gained, self.lows[-1][0] - self.lows[0][0]


@dataclass(slots=True)
class UpdateSize:
    """Judges mean |dW| / mean |W| of a group; one odd value, as at the very start, is none.

    Attributes:
        large: Values in a row that were too large.
        small: Values in a row that were too small.
        highest_rate: The highest learning rate so far.
    """

    large: int = 0
    small: int = 0
    highest_rate: float = 0.0

    def add(self, ratio: float, rate: float) -> str:
        """Take in a look; say `too high`, `too low` or nothing of the learning rate.

        A rate that is below a tenth of its highest, as at the ends of a schedule, is never too low.
        """
        self.highest_rate = max(self.highest_rate, rate)
        is_full = rate > 0 and rate >= self.highest_rate / 10
        self.large = self.large + 1 if ratio > _TOO_LARGE else 0
        self.small = self.small + 1 if ratio < _TOO_SMALL and is_full else 0
        return "too high" if self.large >= _RATIO_ROW else "too low" if self.small >= _RATIO_ROW else ""
