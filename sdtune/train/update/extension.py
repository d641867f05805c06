"""The learning rate of a run that is made longer, shown beside the one it had."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.errors import ConfigError
from sdtune.train.update.rates import group_rates
from sdtune.train.update.schedules import make_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.config.train import TrainOptions
    from sdtune.train.method import ParamGroup

    Curve = Callable[[int], float]

_ROWS = 8


def rate_curve(group: ParamGroup, train: TrainOptions, steps: int) -> Curve:
    """Give a group's learning rate at each step, counted from 0, in a run of `steps` steps."""
    rates, shape = group_rates(group, train, steps), make_shape(train.schedule, steps)
    return lambda step: rates.at(step) * shape(step)


def show_curves(old: Curve, old_steps: int, new: Curve, new_steps: int, joint: int) -> str:
    """Draw a table of two learning rates: about ten steps of the run, and those around the joint.

    Args:
        old: Rate of each step as it was, counted from 0.
        old_steps: Length of the run as it was.
        new: Rate of each step as it will be.
        new_steps: Length as it will be.
        joint: Steps done.
    """
    lines = [f"{'learning rate':<16}{f'{old_steps} steps':>12}{f'{new_steps} steps':>12}"]
    for step in shown_steps(old_steps, new_steps, joint):
        before = f"{old(step - 1):.3g}" if step <= old_steps else ""
        after = f"{new(step - 1):.3g}" if step <= new_steps else ""
        mark = "  <- goes on here" if step == joint + 1 else ""
        lines.append(f"{f'step {step}':<16}{before:>12}{after:>12}{mark}")
    return "\n".join(lines)


def describe_jump(old: Curve, new: Curve, new_steps: int, joint: int) -> str:
    """Tell of a change of the learning rate at the joint that is larger than any between two steps of the new curve.

    The steps after the joint follow the new curve; empty where the old one leads there.
    """
    if not 0 < joint < new_steps:
        return ""
    largest = max((abs(new(step) - new(step - 1)) for step in range(1, new_steps)), default=0.0)
    before, after = old(joint - 1), new(joint)
    if abs(after - before) <= largest * (1 + 1e-9):
        return ""
    return f"the learning rate goes from {before:.3g} in step {joint} to {after:.3g} in step {joint + 1}"


def shown_steps(old_steps: int, new_steps: int, joint: int) -> list[int]:
    """Choose steps, counted from 1: evenly over the longer run, both ends, and two on either side of the joint."""
    last = max(old_steps, new_steps)
    even = {1 + (last - 1) * row // (_ROWS - 1) for row in range(_ROWS)}
    near = {joint - 1, joint, joint + 1, joint + 2, old_steps, new_steps}
    return sorted(step for step in even | near if 1 <= step <= last)


def check_never_still(groups: Sequence[ParamGroup], train: TrainOptions, joint: int, steps: int) -> None:
    """Refuse a longer run in which, at some step after the joint, nothing would learn.

    Raises:
        ConfigError: Every group's learning rate is 0 there.
    """
    curves = [rate_curve(group, train, steps) for group in groups]
    still = next((step for step in range(joint, steps) if not any(curve(step) for curve in curves)), None)
    if still is not None:
        raise ConfigError(
            f"every learning rate would be 0 in step {still + 1} of {steps}", hint="look at train.lr and train.schedule"
        )
