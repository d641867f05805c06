"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdtune.config.rates import Rates, parse_rates, stop_step
from sdtune.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from sdtune.config.schema import ScheduleOptions, TrainOptions
    from sdtune.train.method import ParamGroup

OPTIMIZERS = ("adamw", "adamw8bit")


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


def group_rates(group: ParamGroup, train: TrainOptions, steps: float = math.inf) -> GroupRates:
    """Give a group's learning rates in a run of `steps` steps."""
    rates = parse_rates(train.lr if group.lr is None else group.lr)
    scaled = Rates(tuple(rate * group.lr_scale for rate in rates.values), rates.ends)
    if group.stop is None or steps == math.inf:
        return GroupRates(scaled, rates.length)
    return GroupRates(scaled, min(rates.length, _stop(group.stop, int(steps))))


def _stop(stop: float | str, steps: int) -> float:
    step = stop_step(stop, steps)
    return math.inf if step >= steps else step


def build_optimizer(groups: Sequence[ParamGroup], train: TrainOptions) -> Optimizer:
    """Build the optimizer over parameter groups; `build_schedule` sets their rates.

    Raises:
        ConfigError: The optimizer is not known.
        PlatformError: Its package is not installed.
    """
    options = train.optimizer
    tables = [
        {
            "params": list(group.params.values()),
            "lr": 1.0,
            "name": group.name,
            "weight_decay": options.weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in groups
    ]
    common: dict[str, Any] = {"betas": options.betas, "eps": options.eps, "weight_decay": options.weight_decay}
    if options.name == "adamw":
        return torch.optim.AdamW(tables, fused=True, **common)
    if options.name == "adamw8bit":
        return _adamw8bit(tables, common)
    raise ConfigError(
        f"train.optimizer.name: no optimizer '{options.name}'", hint=f"choose one of {', '.join(OPTIMIZERS)}"
    )


def _adamw8bit(tables: list[dict[str, Any]], common: dict[str, Any]) -> Optimizer:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise PlatformError(
            "train.optimizer.name: adamw8bit needs the package bitsandbytes", hint="pip install 'sdtune[bnb]'"
        ) from error
    optimizer: Optimizer = AdamW8bit(tables, **common)
    return optimizer


def build_schedule(
    optimizer: Optimizer, groups: Sequence[GroupRates], options: ScheduleOptions, steps: int
) -> LRScheduler:
    """Build the schedule over `steps` optimizer steps: each group's rates times one shape.

    Args:
        optimizer: Its groups have a rate of 1.
        groups: One for each of them.
        options: The shape.
        steps: Length of the run.

    Raises:
        ConfigError: Warmup with `constant`, or a warmup as long as the run.
    """
    shape = _shape(options, steps)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [_product(group, shape) for group in groups])


def _product(group: GroupRates, shape: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: group.at(step) * shape(step)


def _shape(options: ScheduleOptions, steps: int) -> Callable[[int], float]:
    """Give a schedule of diffusers as a function of the step, at most 1."""
    from diffusers.optimization import get_scheduler

    if options.warmup_steps and options.name == "constant":
        raise ConfigError(
            f"train.schedule.warmup_steps: {options.warmup_steps} has no effect with 'constant'",
            hint="use train.schedule.name=constant_with_warmup",
        )
    if options.warmup_steps >= steps:
        raise ConfigError(
            f"train.schedule.warmup_steps: {options.warmup_steps} leaves nothing of {steps} steps",
            hint="lower it, or train longer",
        )
    schedule = get_scheduler(
        options.name,
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=options.warmup_steps,
        num_training_steps=steps,
        num_cycles=options.cycles,
        power=options.power,
    )
    shape: Callable[[int], float] = schedule.lr_lambdas[0]
    return shape
