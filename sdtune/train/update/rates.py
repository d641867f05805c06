"""Learning rates of groups of parameters, step by step."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.config.rates import Rates, parse_rates, stop_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer

    from sdtune.config.train import TrainOptions
    from sdtune.models.base import Part
    from sdtune.train.method import ParamGroup


@dataclass(frozen=True, slots=True)
class GroupRates:
    """The learning rate of one group, before the schedule's shape.

    Attributes:
        rates: The rate of each step.
        end: The step from which the group learns no more; `math.inf` when it learns to the end.
    """

    rates: Rates
    end: float

    def at(self, step: int) -> float:
        """Give the rate of step `step`, counted from 0."""
        return 0.0 if step >= self.end else self.rates.at(step)

    @property
    def highest(self) -> float:
        """The highest rate of any step; 0 means that the group is frozen."""
        return max(self.rates.values)


def group_rates(group: ParamGroup, train: TrainOptions, steps: float = math.inf) -> GroupRates:
    """Give a group's learning rates in a run of `steps` steps."""
    rates = parse_rates(train.lr if group.lr is None else group.lr)
    scaled = Rates(tuple(rate * group.lr_scale for rate in rates.values), rates.ends)
    if group.stop is None or steps == math.inf:
        return GroupRates(scaled, rates.length)
    return GroupRates(scaled, min(rates.length, _stop(group.stop, int(steps))))


def used_rates(groups: Sequence[ParamGroup], train: TrainOptions) -> tuple[tuple[Part, str], ...]:
    """List the learning rates of groups, as part and rate, each once; that of most numbers comes first."""
    numbers: Counter[tuple[Part, str]] = Counter()
    for group in groups:
        rates = str(group_rates(group, train).rates)
        numbers[group.part, rates] += sum(parameter.numel() for parameter in group.params.values())
    return tuple(rate for rate, _ in numbers.most_common())


def _stop(stop: float | str, steps: int) -> float:
    step = stop_step(stop, steps)
    return math.inf if step >= steps else step


def set_rates(optimizer: Optimizer, groups: Sequence[GroupRates], shape: Callable[[int], float], step: int) -> None:
    """Give each group of an optimizer its rate of step `step`, counted from 0."""
    for table, group in zip(optimizer.param_groups, groups, strict=True):
        table["lr"] = group.at(step) * shape(step)


def logged_rates(optimizer: Optimizer) -> dict[str, float]:
    """List each group's rate; where the optimizer finds a factor d, also d*lr, as kohya's scripts log it.

    `d*lr` alone is that of all groups that learn, where it is the same.
    """
    rates = {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
    found = {
        f"d*lr/{group['name']}": float(group["d"]) * float(group["lr"])
        for group in optimizer.param_groups
        if "d" in group and isinstance(group["d"], float)
    }
    used = {rate for rate in found.values() if rate > 0}
    return rates | ({"d*lr": used.pop()} if len(used) == 1 else {}) | found
