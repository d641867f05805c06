"""Learning-rate schedules: pure functions of the step, at most 1, so that resuming needs no state.

`steps` is the length of the run, T; `step` is counted from 0; progress goes from 0 after the warmup to 1 at T.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sdtune.config.rates import count_steps, parse_rates
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdtune.config.optimizer import ScheduleName, ScheduleOptions

    Shape = Callable[[int], float]
    Curve = Callable[[float], float]

# Where PyTorch's OneCycleLR rises from, for what share of the run, and where it ends.
_ONE_CYCLE_START, _ONE_CYCLE_RISE, _ONE_CYCLE_END = 1 / 25, 0.3, 1 / 25e4
_TIMESCALE = 10_000


def make_shape(options: ScheduleOptions, steps: int) -> Shape:
    """Give the schedule as a function of the step.

    Args:
        options: Name of the curve, and its numbers.
        steps: Length of the run.

    Raises:
        ConfigError: Warmup, or warmup and decay together, are longer than the run.
    """
    warmup = _count(options.warmup, "warmup", steps)
    match options.name:
        case "one_cycle":
            return one_cycle(steps, warmup or _ONE_CYCLE_RISE * steps)
        case "inverse_sqrt":
            shape = inverse_sqrt(warmup, options.timescale or warmup or _TIMESCALE)
        case "piecewise_constant":
            shape = parse_rates(options.factors or 1).at
        case "warmup_stable_decay":
            decay = _count(options.decay, "decay", steps - warmup, of=steps)
            shape = _after(steps - decay, steps, cosine(options.min_ratio))
        case _:
            shape = _after(warmup, steps, _curve(options.name, options))
    return lambda step: step / warmup if step < warmup else shape(step)


def _count(span: float | str, name: str, room: int, *, of: int | None = None) -> int:
    count = count_steps(span, of or room)
    if count and count >= room + (of is not None):
        raise ConfigError(
            f"train.schedule.{name}: {span} is {count} steps, which leaves nothing of {of or room}",
            hint="lower it, or train longer",
        )
    return count


def _curve(name: ScheduleName, options: ScheduleOptions) -> Curve:
    match name:
        case "linear":
            return polynomial(1.0)
        case "cosine" | "cosine_with_min_lr":
            return cosine(options.min_ratio)
        case "cosine_with_restarts":
            return cosine_with_restarts(options.cycles)
        case "polynomial":
            return polynomial(options.power, options.min_ratio)
        case "rex":
            return rex
        case _:
            return lambda progress: 1.0


def _after(start: int, steps: int, curve: Curve) -> Shape:
    """Stretch a curve over progress 0 to 1 from `start` to `steps`; before it the shape is 1."""
    return lambda step: curve(min(1.0, max(0.0, (step - start) / max(1, steps - start))))


def cosine(end: float = 0.0) -> Curve:
    """Half a cosine from 1 to `end` (Loshchilov & Hutter 2017, SGDR, equation 5, without restarts)."""
    return lambda progress: end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))


def cosine_with_restarts(cycles: int) -> Curve:
    """Go down half a cosine from 1 to 0 as many times as there are cycles (SGDR, equation 5)."""
    half = cosine()
    return lambda progress: 0.0 if progress >= 1 else half(cycles * progress % 1)


def polynomial(power: float, end: float = 0.0) -> Curve:
    """Go from 1 to `end` as (1 - progress) ** power; `power` 1 is a straight line."""
    return lambda progress: end + (1 - end) * (1 - progress) ** power


def rex(progress: float) -> float:
    """Give (1 - p) / (1/2 + (1 - p) / 2): close to 1 for long, then steep (Chen et al. 2021, REX, equation 1)."""
    return (1 - progress) / (0.5 + 0.5 * (1 - progress))


def inverse_sqrt(warmup: int, timescale: int) -> Shape:
    """Give 1 / sqrt(1 + steps after the warmup / timescale) (Zhai et al. 2022, Scaling Vision Transformers)."""
    return lambda step: 1 / math.sqrt((step + timescale - warmup) / timescale)


def one_cycle(steps: int, rise: float) -> Shape:
    """Rise along half a cosine from 1/25 to 1, then fall along another to 1/250,000 in the last step.

    Smith & Topin 2017, in PyTorch's form with two phases.

    Args:
        steps: Length of the run.
        rise: Steps of the rise.
    """
    top, last = rise - 1, steps - 1
    half = cosine()

    def shape(step: int) -> float:
        if step <= top:
            return 1 + (_ONE_CYCLE_START - 1) * half(step / top)
        return _ONE_CYCLE_END + (1 - _ONE_CYCLE_END) * half(min(1.0, (step - top) / max(1, last - top)))

    return shape
