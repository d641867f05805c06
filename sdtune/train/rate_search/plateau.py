"""When an optimizer that finds its own rate has found it: the factor d has stopped growing."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FEWEST_STEPS = 50
GROWTH = 0.01
_FEWEST_FLAT, _FLAT_SHARE = 20, 0.2
_LEFT = 2  # times the start: below it, d may as well be the start itself


def flat_steps(step: int) -> int:
    """Give how many steps d must have stood still when `step` steps are done: a fifth of them, 20 at least.

    d grows in bounds, and the longer a run is, the longer are the pauses between them.
    """
    return max(_FEWEST_FLAT, math.ceil(_FLAT_SHARE * step))


def has_left_start(values: Sequence[float], place: int, *, first_step: int) -> bool:
    """Tell whether d at `place` is at least twice what it began with.

    Args:
        values: d, one a logged step.
        place: Index into them.
        first_step: The step of the first value. Of a log that begins later, the start is not known, and left behind.
    """
    return first_step > 1 or values[place] >= _LEFT * values[0]


def is_plateau(steps: Sequence[int], values: Sequence[float], place: int) -> bool:
    """Tell whether d stands still at `place`: away from its start, and not grown by more than 1 % over `flat_steps`.

    Args:
        steps: Rising steps, from 1; not every step need be there.
        values: d in these steps, which never falls.
        place: Index into both.
    """
    step = steps[place]
    before = bisect_right(steps, step - flat_steps(step)) - 1
    if step < FEWEST_STEPS or before < 0 or not has_left_start(values, before, first_step=steps[0]):
        return False
    return values[place] <= (1 + GROWTH) * values[before]


def find_plateau(steps: Sequence[int], values: Sequence[float]) -> int | None:
    """Give the index of the last value at which d stood still; None: it never did."""
    places = reversed(range(len(values)))
    return next((place for place in places if is_plateau(steps, values, place)), None)
