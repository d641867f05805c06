"""The learning rate that Prodigy or D-Adaptation has found, read from what a run has logged."""

from __future__ import annotations

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sdtune.errors import ConfigError, PlatformError
from sdtune.train.rate_search.plateau import find_plateau, has_left_start, is_plateau

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sdtune.train.saving.folder import RunFolder

_PREFIX = "lr/"
RANGE = 3  # the found value, divided and multiplied by it, is what is worth trying


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRate:
    """What was found for one group of parameters.

    Attributes:
        group: Its name.
        d: The factor, at the plateau; where there is none yet, at the last step.
        rate: d times the group's highest rate in the run, to three digits: d is no more certain than that.
        step: The step of that value.
        steps: The last step there is.
        is_settled: Whether it is a plateau.
        has_begun: Whether d has left the value it began with; if not, nothing was found.
    """

    group: str
    d: float
    rate: float
    step: int
    steps: int
    is_settled: bool
    has_begun: bool

    @property
    def lowest(self) -> float:
        """The lowest rate worth trying."""
        return rounded(self.rate / RANGE)

    @property
    def highest(self) -> float:
        """The highest rate worth trying."""
        return rounded(self.rate * RANGE)

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data."""
        return {
            "d": self.d,
            "rate": self.rate,
            "range": [self.lowest, self.highest],
            "step": self.step,
            "steps": self.steps,
            "is_settled": self.is_settled,
        }

    def describe(self) -> list[str]:
        """Give lines for the screen."""
        if not self.has_begun:
            return [f"no rate found in {self.steps} steps: d is {self.d:.3g}, about where it began"]
        lines = [
            f"learning rate: {both(self.rate)} (d {self.d:.6g})",
            f"range to try: {both(self.lowest)} to {both(self.highest)}",
        ]
        if self.is_settled:
            later = "" if self.step == self.steps else f"; it has grown again until step {self.steps}"
            return [*lines, f"d stood still at step {self.step}{later}"]
        return [*lines, f"no plateau yet after {self.steps} steps: d is still growing, so this may be too low"]


def rounded(rate: float) -> float:
    """Round a rate to three digits."""
    return float(f"{rate:.3g}")


def both(rate: float) -> str:
    """Write a rate in both notations: `3.64e-05 = 0.0000364`."""
    return f"{rate:.2e} = {Decimal(repr(rate)):f}"


def describe_all(found: Sequence[FoundRate]) -> list[str]:
    """Give lines for the screen; groups with the same value are told together."""
    if len({(one.d, one.rate, one.step) for one in found}) == 1:
        return found[0].describe()
    return [f"{one.group}: {line}" for one in found for line in one.describe()]


class RateLog:
    """The factors of each group over the steps of a run."""

    def __init__(self) -> None:
        self._steps: dict[str, list[int]] = {}
        self._factors: dict[str, list[float]] = {}
        self._highest: dict[str, float] = {}

    def add(self, step: int, rates: Mapping[str, float]) -> None:
        """Take in the rates of a step: `d*lr/GROUP` and `GROUP`."""
        for name, rate in rates.items():
            group, factor = name.removeprefix("d*lr/"), rates.get(name.removeprefix("d*lr/"), 0.0)
            if group != name and factor > 0:
                self._steps.setdefault(group, []).append(step)
                self._factors.setdefault(group, []).append(rate / factor)
                self._highest[group] = max(factor, self._highest.get(group, 0.0))

    @property
    def is_settled(self) -> bool:
        """Whether d stands still now, in every group."""
        pairs = zip(self._steps.values(), self._factors.values(), strict=True)
        return bool(self._steps) and all(is_plateau(steps, factors, len(steps) - 1) for steps, factors in pairs)

    def found(self) -> tuple[FoundRate, ...]:
        """Give what was found so far, by group."""
        return tuple(self._found(group) for group in self._steps)

    def _found(self, group: str) -> FoundRate:
        steps, factors = self._steps[group], self._factors[group]
        plateau = find_plateau(steps, factors)
        place = len(steps) - 1 if plateau is None else plateau
        return FoundRate(
            group=group,
            d=factors[place],
            rate=rounded(factors[place] * self._highest[group]),
            step=steps[place],
            steps=steps[-1],
            is_settled=plateau is not None,
            has_begun=has_left_start(factors, len(factors) - 1, first_step=steps[0]),
        )


def read_rates(folder: RunFolder) -> tuple[FoundRate, ...]:
    """Read what was found in a run, also in one that goes on or was stopped.

    Raises:
        ConfigError: Nothing is logged yet, or its optimizer finds no rate.
        PlatformError: The log cannot be read.
    """
    try:
        lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise PlatformError(f"{folder.metrics} cannot be read: {error.strerror}") from error
    log = RateLog()
    for line in _objects(lines):
        log.add(line["step"], {name.removeprefix(_PREFIX): rate for name, rate in line.items() if _is_rate(name, rate)})
    if not lines:
        raise ConfigError("no step is logged yet", where=str(folder.path))
    if not log.found():
        raise ConfigError(
            "the optimizer of this run finds no learning rate",
            where=str(folder.path),
            hint="try `sdtune lr probe`, or train.optimizer.name=prodigy",
        )
    return log.found()


def _is_rate(name: str, value: object) -> bool:
    return name.startswith(_PREFIX) and isinstance(value, int | float)


def _objects(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Give the lines that are whole; a run that was killed may have left a damaged one."""
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("step"), int):
            yield found
