"""Learning rates over the steps of a run, in the notation of webui's Train tab: `0.005:100, 1e-3:1000, 1e-5`."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_RATE = 1000
_FORM = "rates as 'rate:step, rate:step, rate', e.g. '0.005:100, 1e-3:1000, 1e-5'"


@dataclass(frozen=True, slots=True)
class Rates:
    """A rate for every step.

    Attributes:
        values: Rates, in the order they apply.
        ends: The step before which each ends, rising; `math.inf` for one that lasts.
    """

    values: tuple[float, ...]
    ends: tuple[float, ...]

    def at(self, step: int) -> float:
        """Give the rate of step `step`, counted from 0; 0 after the last rate has ended."""
        index = bisect_right(self.ends, step)
        return self.values[index] if index < len(self.values) else 0.0

    def __str__(self) -> str:
        """Write them so that `parse_rates` reads them, with 6 digits."""
        ends = ("" if end == math.inf else f":{int(end)}" for end in self.ends)
        return ", ".join(f"{float(f'{value:.6g}')}{end}" for value, end in zip(self.values, ends, strict=True))

    @property
    def length(self) -> float:
        """Steps until the last rate ends: `math.inf` when it lasts."""
        return self.ends[-1]


def parse_rates(value: float | str) -> Rates:
    """Read a rate, or a list of rates.

    Args:
        value: A number, or `rate:step` pairs: a rate applies before its step; without a step, or with -1, it lasts.

    Raises:
        ValueError: It is no list of rates, or its steps do not rise.
    """
    pairs = [_pair(item) for item in str(value).split(",") if item.strip()]
    rates, ends = [rate for rate, _ in pairs], [end for _, end in pairs]
    if not pairs:
        raise ValueError(f"must be a number, or {_FORM}")
    if ends != sorted(set(ends)):
        raise ValueError("must be rates with rising steps; only the last may do without a step")
    if not all(0 <= rate <= MAX_RATE for rate in rates):
        raise ValueError(f"must be rates from 0 to {MAX_RATE}")
    return Rates(tuple(rates), tuple(ends))


def _pair(item: str) -> tuple[float, float]:
    rate, colon, step = item.partition(":")
    try:
        end = int(step) if colon else -1
        return float(rate), math.inf if end == -1 else _positive(end)
    except ValueError:
        raise ValueError(f"must be a number, or {_FORM}; {item.strip()!r} is neither") from None


def _positive(step: int) -> int:
    if step < 1:
        raise ValueError
    return step


def _check_rates(value: str) -> float | str:
    """Refuse what cannot be read; a single lasting rate becomes a number."""
    rates = parse_rates(value)
    return rates.values[0] if rates.ends == (math.inf,) else value


def _check_stop(value: float | str) -> float | str:
    stop_step(value, 1)
    return value


def stop_step(value: float | str, steps: int) -> int:
    """Give the step after which something stops.

    Args:
        value: `75%` or a fraction up to 1 of the run, or a number of steps from 2 on.
        steps: Steps of the run.

    Raises:
        ValueError: It is none of these.
    """
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    is_share = text.endswith("%") or number <= 1
    if not number >= 0 or (is_share and number > 1) or not (is_share or number.is_integer()):
        raise ValueError("must be a number of steps, a fraction of the run such as 0.75, or a percentage such as 75%")
    return min(steps, round(number * steps) if is_share else int(number))


def count_steps(span: float | str, steps: int) -> int:
    """Give the length of a part of a run, in steps.

    Args:
        span: A whole number of steps, a fraction of the run below 1, or a percentage, e.g. `10%`.
        steps: Steps of the run.

    Raises:
        ValueError: It is none of these.
    """
    text = str(span).strip()
    is_percentage = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if is_percentage else 1)
    except ValueError:
        number = -1.0
    is_share = is_percentage or number < 1
    if not number >= 0 or (is_share and number > 1) or not (is_share or number.is_integer()):
        raise ValueError("must be a number of steps, a fraction of the run such as 0.1, or a percentage such as 10%")
    return round(number * steps) if is_share else int(number)


def _check_span(value: float | str) -> float | str:
    count_steps(value, 1)
    return value


def _check_factors(value: str) -> str:
    factors = parse_rates(value)
    if max(factors.values) > 1 or factors.length != math.inf:
        raise ValueError("must be factors up to 1 with rising steps, the last one without a step")
    return value


LearningRate = Annotated[float, Field(ge=0, le=MAX_RATE)] | Annotated[str, AfterValidator(_check_rates)]
"""A learning rate: a number, or webui's `rate:step` pairs. When all rates of a run have ended, so has the run."""

Stop = Annotated[float, AfterValidator(_check_stop)] | Annotated[str, AfterValidator(_check_stop)]
"""When something stops learning: a step, a fraction of the run up to 1, or a percentage."""

Span = (
    Annotated[int, AfterValidator(_check_span)]
    | Annotated[float, AfterValidator(_check_span)]
    | Annotated[str, AfterValidator(_check_span)]
)
"""Length of a part of a run: steps, a fraction of it, or a percentage."""

SteppedFactor = Annotated[str, AfterValidator(_check_factors)]
"""Factors as webui's `rate:step` pairs."""
