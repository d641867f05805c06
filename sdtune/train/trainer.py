"""The loop: one optimizer step after another, for every method."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator

from sdtune.errors import ConfigError, NumericsError, OutOfMemoryError, StoppedError
from sdtune.train.checkpoint import Checkpoint, Position, save_checkpoint
from sdtune.train.environment import describe_environment
from sdtune.train.gradients import Gradients
from sdtune.train.observers import ObserverGroup, StepReport
from sdtune.train.update import Update

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from sdtune.train.gradients import StepResult
    from sdtune.train.inputs import InputSource
    from sdtune.train.observers import Observer
    from sdtune.train.run import ExportedFile, Run
    from sdtune.train.signals import StopRequest

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
        self._update = Update(run)
        self._gradients = Gradients(run, source, self._accelerator, self._update)
        self._average = LossAverage()
        self._images_seen = 0
        self._base = run.base_digests()  # now, while the base model's files are surely there

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put the run back where a checkpoint was taken; `Resumption.check` has seen that they fit.

        Raises:
            ModelError: The checkpoint holds other parameters.
        """
        position = checkpoint.position
        self.run.load_parameters(checkpoint.parameters)
        self._update.restore(checkpoint)
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
        packed = self._update.packed()
        position = Position(
            step=self.step,
            dataset=self.run.index.digest,
            model=self._base["unet"],
            loss_average=(self._average.total, self._average.weight),
            optimizer=packed.values,
            scaler=packed.scaler,
            parts=self._base,
            environment=describe_environment(self.run.device),
        )
        checkpoint = Checkpoint(
            parameters=self.run.parameters(), optimizer=packed.tensors, position=position, ema=packed.ema
        )
        save_checkpoint(self.run.folder.checkpoints, checkpoint, keep=self.run.options.save.keep)
        self.run.folder.write_facts({"step": self.step})

    def export(self, suffix: str = "") -> list[ExportedFile]:
        """Write the method's files after the last step: the running average's, where there is one, and as asked."""
        optimizer = self._update.snapshot()
        live = []
        if self._update.exports_live_too:
            live = [
                replace(file, is_delivered=False) for file in self.run.export(self.step, f"{suffix}-live", optimizer)
            ]
        with self.shown_weights():
            return [*self.run.export(self.step, suffix, optimizer), *live]

    def shown_weights(self) -> AbstractContextManager[None]:
        """Give the model the weights that files and pictures show."""
        return self._update.shown_weights()

    def _notify(self, event: str) -> None:
        with self.shown_weights():
            self._observers.notify(event, self.run, self.step)

    def _one_step(self) -> None:
        started = time.perf_counter()
        self.run.method.before_step(self.run.model, self.step + 1)
        lrs = self._update.prepare(self.step)
        result = self._gradients.compute(self.step)
        loss = float(result.loss)
        self._check_finite("loss", loss, result)
        grad_norm = self._update.clip()
        if not self._update.skips_overflow:
            self._check_finite("gradient norm", grad_norm, result)
        self._update.apply(self.step + 1)
        self.step += 1
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

    def _check_finite(self, what: str, value: float, result: StepResult) -> None:
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
