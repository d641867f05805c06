"""The loop: one optimizer step after another, for every method."""

from __future__ import annotations

import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from sdtune.errors import ConfigError, NumericsError, OutOfMemoryError, StoppedError
from sdtune.train.checkpoint import Checkpoint, Position, save_checkpoint
from sdtune.train.ema import make_ema
from sdtune.train.info import OptimizerSnapshot
from sdtune.train.objective import make_objective
from sdtune.train.observers import ObserverGroup, StepReport
from sdtune.train.optim import group_rates, logged_rates, set_rates
from sdtune.train.optimizers import averaged_weights, build_optimizer, choose_optimizer
from sdtune.train.schedules import make_shape
from sdtune.train.state import pack_optimizer, unpack_optimizer
from sdtune.train.step import TrainStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from sdtune.train.inputs import InputSource
    from sdtune.train.observers import Observer
    from sdtune.train.run import ExportedFile, Run
    from sdtune.train.signals import StopRequest
    from sdtune.train.step import StepInputs

logger = logging.getLogger(__name__)
_AVERAGE_STEPS = 100


@dataclass(slots=True)
class LossAverage:
    """Exponential average over about the last 100 steps, free of bias at the start.

    Attributes:
        total: Weighted sum of losses.
        weight: Sum of weights.
    """

    total: float = 0.0
    weight: float = 0.0

    def add(self, loss: float) -> float:
        """Take in a loss and give the average."""
        keep = 1 - 1 / _AVERAGE_STEPS
        self.total = self.total * keep + loss
        self.weight = self.weight * keep + 1
        return self.total / self.weight


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepResult:
    """Sums of one optimizer step, still tensors where reading them would wait for the device."""

    loss: Tensor
    terms: Mapping[str, Tensor]
    sample_ids: tuple[str, ...]


class _PriorLosses:
    """Unweighted losses of one step, the subject's and its class's apart."""

    def __init__(self, *, is_used: bool) -> None:
        self._is_used = is_used
        self._losses: dict[str, list[Tensor]] = {"instance": [], "prior": []}

    def add(self, terms: Mapping[str, Tensor], is_regularization: Sequence[bool]) -> None:
        """Take in a batch: named terms, each (B,)."""
        if self._is_used:
            losses = torch.stack(list(terms.values())).sum(0)
            for loss, is_prior in zip(losses.unbind(), is_regularization, strict=True):
                self._losses["prior" if is_prior else "instance"].append(loss)

    def means(self) -> dict[str, Tensor]:
        """Give the mean of each kind that the step had samples of."""
        return {name: torch.stack(losses).mean() for name, losses in self._losses.items() if losses}


class Trainer:
    """Train a run from where it stands to its last step.

    Attributes:
        step: Optimizer steps done.
    """

    def __init__(self, run: Run, source: InputSource, observers: Sequence[Observer], stop: StopRequest) -> None:
        self.run = run
        self.step = 0
        self._source = source
        self._stop = stop
        self._observers = ObserverGroup(observers)
        self._accelerator = Accelerator(mixed_precision="no", device_placement=False, cpu=run.device.type == "cpu")
        if self._accelerator.num_processes > 1:
            raise ConfigError("training in several processes is not supported yet", hint="start one process")
        self._module = self._accelerator.prepare(
            TrainStep(run.model, run.method, make_objective(run.options, run.model))
        )
        self._parameters = run.parameters()
        self._optimizer = build_optimizer(run.groups, run.options.train)
        self._averages_itself = choose_optimizer(run.options.train.optimizer).entry.averages
        self._rates = [group_rates(group, run.options.train, run.timetable.steps) for group in run.groups]
        self._shape = make_shape(run.options.train.schedule, run.timetable.steps)
        self._ema = make_ema(self._parameters, run.options.train.ema)
        self._scaler = torch.amp.GradScaler(run.device.type, enabled=run.options.train.precision == "fp16")
        self._average = LossAverage()
        self._images_seen = 0

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put the run back where a checkpoint was taken.

        Raises:
            ConfigError: The images, the captions or the base model changed since.
            ModelError: The checkpoint holds other parameters.
        """
        position = checkpoint.position
        self.run.check_unchanged(position)
        self.run.load_parameters(checkpoint.parameters)
        unpack_optimizer(self._optimizer, self._parameters, checkpoint.optimizer, dict(position.optimizer))
        if position.scaler:
            self._scaler.load_state_dict(dict(position.scaler))
        if self._ema is not None:
            self._ema.load(checkpoint.ema)
        self._average = LossAverage(*position.loss_average)
        self.step = position.step
        self._images_seen = self._source.images_before(self.step)

    def train(self, *, stop_after: int | None = None) -> None:
        """Run to the end, to `stop_after` more steps, or to a stop request; save in every case.

        Raises:
            StoppedError: A stop was asked for; the state is saved.
            NumericsError: Loss or gradients are not finite; the last good checkpoint stays.
            OutOfMemoryError: The device's memory is used up.
        """
        last = self.run.timetable.steps if stop_after is None else min(self.run.timetable.steps, self.step + stop_after)
        self._notify("on_start")
        self._module.train()
        try:
            while self.step < last and not self._stop.is_raised:
                self._one_step()
                self._after_step()
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"memory is used up in step {self.step + 1}",
                hint="try train.gradient_checkpointing=true, a smaller train.batch_size, or a smaller data.resolution",
            ) from error
        finally:
            self._notify("on_end")
        if self.step < self.run.timetable.steps:
            self.save()
            raise StoppedError(
                f"stopped after step {self.step} of {self.run.timetable.steps}, state saved",
                hint=f"go on with: sdtune train --resume {self.run.folder.path}",
            )

    def save(self) -> None:
        """Write a checkpoint of the state after the last step."""
        tensors, values = pack_optimizer(self._optimizer, self._parameters)
        position = Position(
            step=self.step,
            dataset=self.run.index.digest,
            model=self.run.model.part_digest("unet"),
            loss_average=(self._average.total, self._average.weight),
            optimizer=values,
            scaler=self._scaler.state_dict(),
        )
        checkpoint = Checkpoint(
            parameters=self._parameters,
            optimizer=tensors,
            position=position,
            ema={} if self._ema is None else self._ema.average,
        )
        save_checkpoint(self.run.folder.checkpoints, checkpoint, keep=self.run.options.save.keep)
        self.run.folder.write_facts({"step": self.step})

    def export(self, suffix: str = "") -> list[ExportedFile]:
        """Write the method's files after the last step: the running average's, where there is one, and as asked."""
        optimizer = OptimizerSnapshot(name=type(self._optimizer).__name__, state_dict=self._optimizer.state_dict())
        live = []
        if self._ema is not None and self.run.options.train.ema.export == "both":
            live = [
                replace(file, is_delivered=False) for file in self.run.export(self.step, f"{suffix}-live", optimizer)
            ]
        with self.shown_weights():
            return [*self.run.export(self.step, suffix, optimizer), *live]

    def shown_weights(self) -> AbstractContextManager[None]:
        """Give the model the weights that files and pictures show."""
        if self._averages_itself:
            return averaged_weights(self._optimizer)
        shows_live = self._ema is None or self.run.options.train.ema.export == "live"
        return nullcontext() if shows_live or self._ema is None else self._ema.swapped()

    def _notify(self, event: str) -> None:
        with self.shown_weights():
            self._observers.notify(event, self.run, self.step)

    def _one_step(self) -> None:
        started = time.perf_counter()
        self._freeze_ended()
        self.run.method.before_step(self.run.model, self.step + 1)
        set_rates(self._optimizer, self._rates, self._shape, self.step)
        lrs = logged_rates(self._optimizer)
        result = self._forward_backward()
        loss = float(result.loss)
        self._check_finite("loss", loss, result)
        grad_norm = self._clip()
        if not self._scaler.is_enabled():
            self._check_finite("gradient norm", grad_norm, result)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        self.run.method.after_step(self.run.model, self.step + 1)
        self.step += 1
        if self._ema is not None:
            self._ema.update(self.step)
        self._images_seen += len(result.sample_ids)
        average = self._average.add(loss)
        if self.step % self.run.options.log.every_steps == 0 or self.step == self.run.timetable.steps:
            report = StepReport(
                step=self.step,
                epoch=self.run.timetable.micro_steps(self.step - 1)[0].epoch + 1,
                loss=loss,
                loss_average=average,
                terms={name: float(value) for name, value in result.terms.items()},
                lrs=lrs,
                grad_norm=grad_norm,
                metrics=self.run.method.metrics(),
                seconds=time.perf_counter() - started,
                images_seen=self._images_seen,
            )
            self._observers.notify("on_step", self.run, report)

    def _forward_backward(self) -> _StepResult:
        batches = [self._source.plan(micro) for micro in self.run.timetable.micro_steps(self.step)]
        count = sum(len(batch.visits) for _, batch in batches)
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        prior = _PriorLosses(is_used=bool(self.run.rotations))
        for number, (epoch, batch) in enumerate(batches, start=1):
            inputs = self._source.inputs(epoch, batch)
            self._source.drawer.seed_layers(epoch, [visit.sample_id for visit in batch.visits])
            share, named = self._micro_step(inputs, count, is_last=number == len(batches))
            losses.append(share)
            for name, term in named.items():
                terms[name] = terms.get(name, torch.zeros_like(share)) + term.sum() / count
            prior.add(named, inputs.is_regularization)
        ids = tuple(visit.sample_id for _, batch in batches for visit in batch.visits)
        return _StepResult(loss=torch.stack(losses).sum(), terms=terms | prior.means(), sample_ids=ids)

    def _micro_step(self, inputs: StepInputs, count: int, *, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of one batch; its losses are divided by the samples of the whole step."""
        if is_last:
            return self._backward(inputs, count)
        with self._accelerator.no_sync(self._module):
            return self._backward(inputs, count)

    def _backward(self, inputs: StepInputs, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        losses, terms = self._module(inputs)
        share = losses.sum() / count
        self._accelerator.backward(self._scaler.scale(share))
        return share.detach(), terms

    def _freeze_ended(self) -> None:
        """Freeze groups whose learning has ended: they get no gradient, so the optimizer leaves them alone."""
        for group, rates in zip(self.run.groups, self._rates, strict=True):
            if self.step >= rates.end:
                for parameter in group.params.values():
                    parameter.requires_grad_(False)

    def _clip(self) -> float:
        self._scaler.unscale_(self._optimizer)
        if self.run.options.train.max_grad_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters.values(), self.run.options.train.max_grad_value)
        limit = self.run.options.train.max_grad_norm or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self._parameters.values(), limit))

    def _check_finite(self, what: str, value: float, result: _StepResult) -> None:
        if math.isfinite(value):
            return
        shown = ", ".join(result.sample_ids[:5])
        raise NumericsError(
            f"the {what} of step {self.step + 1} is {value}; trained on {shown}",
            hint="lower train.lr, or use train.precision=bf16 or fp32; the last good checkpoint is kept",
        )

    def _after_step(self) -> None:
        options = self.run.options
        ends_epoch = self.run.timetable.ends_epoch(self.step)
        epochs = self.run.timetable.epochs_done(self.step)
        is_end = self.step == self.run.timetable.steps
        if _is_due(self.step, options.save.every_steps) or is_end:
            self.save()
        if not is_end and ends_epoch and _is_due(epochs, options.save.every_epochs):
            self.export(f"-{epochs:06d}")
        by_epoch = ends_epoch and _is_due(epochs, options.preview.every_epochs)
        if not is_end and (_is_due(self.step, options.preview.every_steps) or by_epoch):
            self._notify("on_pause")


def _is_due(count: int, every: int | None) -> bool:
    return every is not None and count > 0 and count % every == 0
