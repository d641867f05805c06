"""One optimizer update: learning rates, loss scaling, clipping, the optimizer, the running average."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdtune.train.ema import make_ema
from sdtune.train.fused import FusedBackward
from sdtune.train.info import OptimizerSnapshot
from sdtune.train.optim import group_rates, logged_rates, set_rates
from sdtune.train.optimizers import averaged_weights, build_optimizer, choose_optimizer
from sdtune.train.schedules import make_shape
from sdtune.train.state import pack_optimizer, unpack_optimizer
from sdtune.train.stepping import Stepper, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdtune.train.checkpoint import Checkpoint
    from sdtune.train.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedUpdate:
    """What a checkpoint holds of an update.

    Attributes:
        tensors: Named tensors of the optimizer.
        values: The rest of its state, as JSON.
        scaler: State of the fp16 loss scaler; empty without one.
        ema: Name to running average; empty without one.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    scaler: Mapping[str, Any]
    ema: Mapping[str, Tensor]


class Update:
    """Turn gradients into new values of the trained parameters."""

    def __init__(self, run: Run) -> None:
        train, steps = run.options.train, run.timetable.steps
        self._run = run
        self._parameters = run.parameters()
        self._optimizer = build_optimizer(run.groups, train)
        entry = choose_optimizer(train.optimizer).entry
        self._averages_itself = entry.averages
        self._is_joint = entry.is_joint
        self._store = None if train.weights == "fp32" else Store(train.seed, holds_state=not entry.has_own_state)
        self._stepper = Stepper(self._optimizer, self._parameters, self._store)
        self._fused = None
        if train.fused_backward:
            self._fused = FusedBackward(self._stepper, self._parameters, train.max_grad_value)
        self._rates = [group_rates(group, train, steps) for group in run.groups]
        self._shape = make_shape(train.schedule, steps)
        self._ema = make_ema(self._parameters, train.ema)
        self._scaler = torch.amp.GradScaler(run.device.type, enabled=train.precision == "fp16")

    @property
    def skips_overflow(self) -> bool:
        """Whether gradients that are not finite are expected now and then, and their update passed over."""
        return self._scaler.is_enabled()

    @property
    def acts_in_backward(self) -> bool:
        """Whether parameters move within backward, so that afterwards it is too late to pass over a step."""
        return self._fused is not None

    def prepare(self, step: int) -> dict[str, float]:
        """Set the learning rates of step `step`, counted from 0, and freeze groups that have learned to their end.

        Returns:
            Learning rate by group, for logs.
        """
        for group, rates in zip(self._run.groups, self._rates, strict=True):
            if step >= rates.end:  # no gradient, so the optimizer leaves it alone
                for parameter in group.params.values():
                    parameter.requires_grad_(False)
        set_rates(self._optimizer, self._rates, self._shape, step)
        if self._fused is not None:
            self._fused.begin(step)
        return logged_rates(self._optimizer)

    def scaled(self, loss: Tensor) -> Tensor:
        """Give the loss whose gradients this update takes: larger in fp16, so that small ones do not vanish."""
        return self._scaler.scale(loss)

    def clip(self) -> float:
        """Clip the gradients; give their norm before."""
        if self._fused is not None:
            return self._fused.norm()
        self._scaler.unscale_(self._optimizer)
        train = self._run.options.train
        if train.max_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters.values(), train.max_grad_value)
        limit = train.max_grad_norm or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), limit))

    def apply(self, step: int) -> None:
        """Move the parameters along the gradients, and forget these; `step` counts from 1."""
        self._move(step - 1)
        self._optimizer.zero_grad(set_to_none=True)
        self._run.method.after_step(self._run.model, step)
        if self._ema is not None:
            self._ema.update(step)

    def _move(self, step: int) -> None:
        if self._fused is not None:
            self._stepper.finish()
        elif self._store is None:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        elif self._is_joint:
            self._stepper.move_all(step)
        else:
            self._stepper.move_each(step)

    def packed(self) -> PackedUpdate:
        """Give what a checkpoint holds of it."""
        tensors, values = pack_optimizer(self._optimizer, self._parameters)
        average = {} if self._ema is None else self._ema.average
        return PackedUpdate(tensors=tensors, values=values, scaler=self._scaler.state_dict(), ema=average)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the parameters themselves are not its own.

        Raises:
            ModelError: The checkpoint holds state of other parameters.
        """
        position = checkpoint.position
        unpack_optimizer(self._optimizer, self._parameters, checkpoint.optimizer, dict(position.optimizer))
        if position.scaler:
            self._scaler.load_state_dict(dict(position.scaler))
        if self._ema is not None:
            self._ema.load(checkpoint.ema)

    def snapshot(self) -> OptimizerSnapshot:
        """Give the optimizer as files show it."""
        return OptimizerSnapshot(name=type(self._optimizer).__name__, state_dict=self._optimizer.state_dict())

    @property
    def exports_live_too(self) -> bool:
        """Whether files of the last step's weights are wanted beside those of the average."""
        return self._ema is not None and self._run.options.train.ema.export == "both"

    def shown_weights(self) -> AbstractContextManager[None]:
        """Give the model the weights that files and pictures show."""
        if self._averages_itself:
            return averaged_weights(self._optimizer)
        if self._ema is None or self._run.options.train.ema.export == "live":
            return nullcontext()
        return self._ema.swapped()
