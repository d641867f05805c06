"""Optimizers and learning-rate schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdtune.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from sdtune.config.schema import ScheduleOptions, TrainOptions
    from sdtune.train.method import ParamGroup

OPTIMIZERS = ("adamw", "adamw8bit")


def group_lr(group: ParamGroup, train: TrainOptions) -> float:
    """Give a group's learning rate at the top of the schedule."""
    return (train.lr if group.lr is None else group.lr) * group.lr_scale


def build_optimizer(groups: Sequence[ParamGroup], train: TrainOptions) -> Optimizer:
    """Build the optimizer over parameter groups, each with its own rate.

    Raises:
        ConfigError: The optimizer is not known.
        PlatformError: Its package is not installed.
    """
    tables = [
        {"params": list(group.params.values()), "lr": group_lr(group, train), "name": group.name} for group in groups
    ]
    options = train.optimizer
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


def build_schedule(optimizer: Optimizer, options: ScheduleOptions, steps: int) -> LRScheduler:
    """Build a schedule of diffusers over `steps` optimizer steps.

    Raises:
        ConfigError: Warmup with `constant`, or a warmup as long as the run.
    """
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
    schedule: LRScheduler = get_scheduler(
        options.name,
        optimizer,
        num_warmup_steps=options.warmup_steps,
        num_training_steps=steps,
        num_cycles=options.cycles,
        power=options.power,
    )
    return schedule
