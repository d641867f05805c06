"""The loop: one optimizer step after another, for every method."""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdtune.errors import DataError, PlatformError, StoppedError
from sdtune.train.machine.advice import training_hint
from sdtune.train.machine.environment import describe_environment
from sdtune.train.machine.memory import memory_told
from sdtune.train.needs.dry import describe_step, rehearse, rehearses
from sdtune.train.saving.autosave import SaveClock
from sdtune.train.saving.checkpoint import Checkpoint, Position, save_checkpoint
from sdtune.train.step.gradients import Gradients
from sdtune.train.update.updating import Update
from sdtune.train.validation.choice import SUFFIX, Choice
from sdtune.train.watching.numerics import StepGuard, check_weights
from sdtune.train.watching.observers import ObserverGroup, StepReport
from sdtune.train.watching.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from sdtune.train.info import OptimizerSnapshot
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.machine.signals import StopRequest
    from sdtune.train.run import ExportedFile, Run
    from sdtune.train.watching.observers import Observer

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

    @property
    def value(self) -> float:
        """The average; 0 without any loss."""
        return self.total / self.weight if self.weight else 0.0

    def add(self, loss: float) -> float:
        """Take in a loss and give the average."""
        keep = 1 - 1 / _AVERAGE_STEPS
        self.total = self.total * keep + loss
        self.weight = self.weight * keep + 1
        return self.value


class Trainer:
    """Train a run from where it stands to its last step.

    Args:
        run: The run.
        source: Inputs of its steps.
        observers: What watches it.
        stop: Asks it to stop.
        until: For a training that is thrown away, of which nothing is saved: told each step and its rates, it answers
            whether that was the last one.

    Attributes:
        step: Optimizer steps done.
    """

    def __init__(
        self,
        run: Run,
        source: InputSource,
        observers: Sequence[Observer],
        stop: StopRequest,
        *,
        until: Callable[[int, Mapping[str, float]], bool] | None = None,
    ) -> None:
        self.run = run
        self.step = 0
        self._until = until
        self._source = source
        self._stop = stop
        self._watch = Watch(run)
        self._observers = ObserverGroup([*observers, self._watch])
        self._update = Update(run)
        self._gradients = Gradients(run, source, self._update)
        self._guard = StepGuard(run, self._update, self.save if until is None else None)
        self._choice = Choice(run, source) if run.held_out is not None else None
        self._average = LossAverage()
        self._images_seen = 0
        self._clock = SaveClock(run.options.save.every_minutes)
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
            DataError: An image cannot be read any more; the state before the step is saved.
            PlatformError: A worker or another process died, or a file cannot be written; the same, where it can be.
            NumericsError: Loss or gradients are not finite; the last good checkpoint stays.
            OutOfMemoryError: The device's memory is used up.
        """
        stop = math.inf if stop_after is None else self.step + stop_after
        if self.step < min(stop, self.run.timetable.steps) and rehearses(self.run):
            rehearse(self.run, self._source, self._gradients, self._update, self.step)
        if self._choice is not None:
            self._choice.load(self.step)
        self._notify("on_start")
        try:
            with memory_told(self._place, lambda: training_hint(self.run)):
                self._validate()
                while self.step < min(stop, self.run.timetable.steps) and not self._is_stopped():
                    with self._saved_if_failing():
                        self._one_step()
                    self._after_step()
        finally:
            self._gradients.close()
            self._notify("on_end")
            self._update.tell_skipped(self.step)
        if self.step < self.run.timetable.steps:
            self.save()
            raise StoppedError(
                f"stopped after step {self.step} of {self.run.timetable.steps}, state saved",
                hint=f"go on with: sdtune train --resume {self.run.folder.path}",
            )

    def save(self) -> None:
        """Write a checkpoint of the state after the last step; of several processes, the first does.

        Raises:
            NumericsError: There are weights that are not finite.
            PlatformError: The disk is full or cannot be written.
        """
        check_weights(self.run.parameters(), self.step)
        if not self.run.ranks.is_first or self._until is not None:
            return
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
        with self._clock.saving():
            save_checkpoint(self.run.folder.checkpoints, checkpoint, keep=self.run.options.save.keep)
        self.run.folder.write_facts({"step": self.step})
        logger.info("saved step %d, save_ms=%.0f", self.step, self._clock.took_ms)

    def export(self, suffix: str = "") -> list[ExportedFile]:
        """Write the method's files after the last step: the running average's, where there is one, and as asked.

        Of several processes the first does.
        """
        if not self.run.ranks.is_first:
            return []
        optimizer = self._update.snapshot()
        live = []
        if self._update.exports_live_too:
            live = [replace(file, is_delivered=False) for file in self._write(f"{suffix}-live", optimizer)]
        with self.shown_weights():
            return [*self._write(suffix, optimizer), *live]

    def _write(self, suffix: str, optimizer: OptimizerSnapshot) -> list[ExportedFile]:
        """Write the method's files from the weights as they are now, and show them to the observers."""
        files = self.run.export(self.step, suffix, optimizer)
        self._observers.notify("on_export", self.run, self.step, files)
        return files

    def shown_weights(self) -> AbstractContextManager[None]:
        """Give the model the weights that files and pictures show."""
        return self._update.shown_weights()

    def verdict(self) -> list[str]:
        """Say in the end what held-out images tell, one line each."""
        return [] if self._choice is None else self._choice.verdict()

    def _check_stop(self) -> None:
        if self.run.ranks.size == 1:  # several end together, after they have met
            self._stop.check(self.run.folder.path)

    def _is_stopped(self) -> bool:
        with self._saved_if_failing():
            return self.run.ranks.any(self._stop.is_raised)

    def _notify(self, event: str) -> None:
        with self.shown_weights():
            self._observers.notify(event, self.run, self.step)

    def _place(self) -> str:
        return f"in step {self.step + 1}, {describe_step(self.run, self._source, self.step)}"

    @contextmanager
    def _saved_if_failing(self) -> Iterator[None]:
        """Save before an error leaves that has not touched the state: of an image, a file or another process."""
        try:
            yield
        except (DataError, PlatformError):
            self.save()
            raise

    def _one_step(self) -> None:
        started = time.perf_counter()
        self.run.method.before_step(self.run.model, self.step + 1)
        lrs = self._update.prepare(self.step)
        self._watch.before(self.step + 1)
        result = self._gradients.compute(self.step)
        loss, grad_norm = float(result.loss), self._update.measure()
        self._guard.check(self.step + 1, result, grad_norm, average=self._average.value, losses=self._average.weight)
        self._update.clip(grad_norm)
        self._watch.see_gradients()
        self._watch.after(is_applied=self._update.apply(self.step + 1))
        self.step += 1
        self._images_seen += len(result.sample_ids)
        if self._until is not None and self._until(self.step, lrs):
            self._end_here()
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
                metrics={**self.run.method.metrics(), **self._update.metrics(), **self._watch.metrics()},
                seconds=time.perf_counter() - started,
                images_seen=self._images_seen,
                sample_ids=result.sample_ids,
            )
            self._observers.notify("on_step", self.run, report)

    def _validate(self) -> None:
        """Measure held-out images if that is due, before the state is saved, so that a checkpoint includes it."""
        choice = self._choice
        if choice is None:
            return
        if choice.is_due(self.step):
            with suppress(StoppedError):  # the loop sees the request, and the resumed run measures again
                self._notify_validation(choice)
        if choice.is_over:
            self._end_here()

    def _end_here(self) -> None:
        self.run.timetable = replace(self.run.timetable, steps=self.step)

    def _notify_validation(self, choice: Choice) -> None:
        optimizer, is_first = self._update.snapshot(), self.run.ranks.is_first
        with self.shown_weights():
            report = choice.measure(self.step, self._check_stop)
            if choice.is_kept(report):
                choice.keep(report, self._write(SUFFIX, optimizer) if is_first else ())
        if is_first:
            choice.write_facts()
        self._observers.notify("on_validation", self.run, report)

    def _after_step(self) -> None:
        self._validate()
        options = self.run.options
        ends_epoch = self.run.timetable.ends_epoch(self.step)
        epochs = self.run.timetable.epochs_done(self.step)
        is_end = self.step == self.run.timetable.steps
        if _is_due(self.step, options.save.every_steps) or self._clock.is_due or is_end:
            self.save()
        if not is_end and ends_epoch and _is_due(epochs, options.save.every_epochs):
            with self._saved_if_failing():  # the state is worth more than the file
                self.export(f"-{epochs:06d}")
        by_epoch = ends_epoch and _is_due(epochs, options.preview.every_epochs)
        if not is_end and (_is_due(self.step, options.preview.every_steps) or by_epoch):
            self._notify("on_pause")


def _is_due(count: int, every: int | None) -> bool:
    return every is not None and count > 0 and count % every == 0
