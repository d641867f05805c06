"""One optimizer update: learning rates, loss scaling, clipping, the optimizer, the running average."""

from __future__ import annotations

import logging
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sdtune.train.info import OptimizerSnapshot
from sdtune.train.update.ema import make_ema
from sdtune.train.update.fused import FusedBackward
from sdtune.train.update.optimizers import averaged_weights, build_optimizer, choose_optimizer
from sdtune.train.update.rates import group_rates, logged_rates, set_rates
from sdtune.train.update.schedules import make_shape
from sdtune.train.update.state import pack_optimizer, unpack_optimizer
from sdtune.train.update.stepping import Stepper, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdtune.train.run import Run
    from sdtune.train.saving.checkpoint import Checkpoint


logger = logging.getLogger(__name__)
_MOST_SKIPPED = 25  # steps in a row: the scale is down by 2**25 then, and no gradient can still be too large for it


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedUpdate:
    """What a checkpoint holds of an update.

    Attributes:
        tensors: Named tensors of the optimizer.
        values: The rest of its state, as JSON.
        scaler: State of the fp16 loss scaler, with the counts of steps passed over; empty without one.
        ema: Name to running average; empty without one.
    """

    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    scaler: Mapping[str, Any]
    ema: Mapping[str, Tensor]


class Update:
    """Turn gradients into new values of the trained parameters.

    In fp16 a step whose gradients overflow changes nothing but the loss scale. It counts as a step for the data, but
    not for learning rates and averages.

    Attributes:
        skipped: Steps passed over so far.
        skipped_in_a_row: Those since the last one that was applied.
    """

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
        self.skipped = 0
        self.skipped_in_a_row = 0

    @property
    def tolerates_overflow(self) -> bool:
        """Whether one more step with gradients that are not finite would be passed over."""
        return self._scaler.is_enabled() and self.skipped_in_a_row + 1 < _MOST_SKIPPED

    def metrics(self) -> dict[str, float]:
        """Give numbers to log."""
        return {"skipped_steps": self.skipped} if self._scaler.is_enabled() else {}

    @property
    def pending_bytes(self) -> int:
        """How much the optimizer will take in its first step, where that is known; 0 when it has its state."""
        if self._optimizer.state or not isinstance(self._optimizer, torch.optim.Adam | torch.optim.AdamW):
            return 0
        return sum(2 * parameter.numel() * parameter.element_size() for parameter in self._parameters.values())

    def tell_skipped(self, step: int) -> None:
        """Say how many of `step` steps were passed over, if any were."""
        if self.skipped:
            logger.warning("%d of %d steps were passed over: their gradients overflowed in fp16", self.skipped, step)

    @property
    def acts_in_backward(self) -> bool:
        """Whether parameters move within backward, so that afterwards it is too late to pass over a step."""
        return self._fused is not None

    def prepare(self, step: int) -> dict[str, float]:
        """Set the learning rates of step `step`, counted from 0, and freeze groups that have learned to their end.

        Rates follow the steps that were applied.

        Returns:
            Learning rate by group, for logs.
        """
        step -= self.skipped
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

    def measure(self) -> float:
        """Give the norm of all gradients together, free of the loss scale and before clipping."""
        if self._fused is not None:
            return self._fused.norm()
        self._scaler.unscale_(self._optimizer)
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def clip(self, norm: float) -> None:
        """Clip the gradients, whose norm is `norm`: each element and then the norm, as far as the options say."""
        if self._fused is not None:  # each was clipped as it came
            return
        train, parameters = self._run.options.train, self._parameters.values()
        limit = train.max_grad_norm or math.inf
        if train.max_grad_value is None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, torch.tensor(norm))
        else:
            torch.nn.utils.clip_grad_value_(parameters, train.max_grad_value)
            torch.nn.utils.clip_grad_norm_(parameters, limit)

    def apply(self, step: int) -> bool:
        """Move the parameters along the gradients, and forget these; `step` counts from 1.

        Returns:
            Whether the step was applied; it is passed over where gradients overflow in fp16.
        """
        scale = self._scaler.get_scale()
        self._move(step - 1)
        self._optimizer.zero_grad(set_to_none=True)
        if self._scaler.get_scale() < scale:  # the scaler's way to say that it passed the step over
            self.skipped += 1
            self.skipped_in_a_row += 1
            return False
        self.skipped_in_a_row = 0
        self._run.method.after_step(self._run.model, step)
        if self._ema is not None:
            self._ema.update(step - self.skipped)
        return True

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
        scaler = self._scaler.state_dict()
        if scaler:
            scaler |= {"skipped": self.skipped, "skipped_in_a_row": self.skipped_in_a_row}
        return PackedUpdate(tensors=tensors, values=values, scaler=scaler, ema=average)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint; the parameters themselves are not its own.

        Raises:
            ModelError: The checkpoint holds state of other parameters.
        """
        position = checkpoint.position
        unpack_optimizer(self._optimizer, self._parameters, checkpoint.optimizer, dict(position.optimizer))
        if position.scaler:
            self._scaler.load_state_dict(dict(position.scaler))
            self.skipped = position.scaler.get("skipped", 0)
            self.skipped_in_a_row = position.scaler.get("skipped_in_a_row", 0)
        if self._ema is not None:
            self._ema.load(checkpoint.ema or checkpoint.parameters)  # an average that was asked for later starts here

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
