"""The optimizer's step within backward: each gradient is used and freed as soon as it is there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from sdtune.errors import ConfigError, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from sdtune.config.optimizers import OptimizerEntry
    from sdtune.config.train import TrainOptions
    from sdtune.train.update.stepping import Stepper


class FusedBackward:
    """Moves each parameter as soon as backward has its whole gradient.

    A gradient that is not finite is known only after earlier parameters have moved: asking before each would wait for
    the device. The norm tells it after backward; the loop then stops, and the weights that count are those on disk.
    """

    def __init__(self, stepper: Stepper, parameters: Mapping[str, nn.Parameter], max_grad_value: float | None) -> None:
        self._stepper = stepper
        self._names = tuple(parameters)
        self._max_grad_value = max_grad_value
        self._step = 0
        self._norms: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            self._hook(name, parameter)

    def begin(self, step: int) -> None:
        """Tell which step the next backward belongs to, counted from 0."""
        self._step = step

    def norm(self) -> float:
        """Give the norm of all gradients of the last backward, and forget it."""
        norms = [self._norms[name] for name in self._names if name in self._norms]
        self._norms = {}
        return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0

    def _hook(self, name: str, parameter: nn.Parameter) -> None:
        def act(parameter: Tensor) -> None:
            gradient = parameter.grad
            assert gradient is not None
            if self._max_grad_value is not None:
                gradient.clamp_(-self._max_grad_value, self._max_grad_value)
            self._norms[name] = torch.linalg.vector_norm(gradient)
            self._stepper.move(name, self._step)

        parameter.register_post_accumulate_grad_hook(act)  # type: ignore[no-untyped-call]  # torch has no types for it


def check_fused(train: TrainOptions, entry: OptimizerEntry) -> None:
    """Refuse what needs all gradients at once.

    Raises:
        ConfigError: One line for each option in the way.
    """
    problems = Problems(ConfigError)
    if train.max_grad_norm:
        problems.add(
            f"train.fused_backward: train.max_grad_norm={train.max_grad_norm:g} needs all gradients at once",
            hint="set train.max_grad_norm=0; train.max_grad_value clips each by itself",
        )
    if train.gradient_accumulation > 1:
        problems.add(
            f"train.fused_backward: train.gradient_accumulation={train.gradient_accumulation} keeps all gradients",
            hint="set train.gradient_accumulation=1",
        )
    if train.precision == "fp16":
        problems.add(
            "train.fused_backward: train.precision=fp16 passes over whole steps, by all gradients",
            hint="set train.precision=bf16 or fp32",
        )
    if entry.is_joint:
        known = "looks" if entry.name != entry.target else "may look"
        problems.add(
            f"train.fused_backward: {entry.name} {known} at all gradients together",
            hint="use train.optimizer.name=adafactor, adamw or adamw8bit",
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        problems.add("train.fused_backward: several processes add up all gradients first", hint="start one process")
    problems.raise_if_any()
