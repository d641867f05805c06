"""Objects that watch a run: they read, they never change it, and one that fails is dropped, not fatal."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.errors import PlatformError, is_out_of_memory
from sdtune.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sdtune.train.run import ExportedFile, Run
    from sdtune.train.validation.choice import ValidationReport

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One optimizer step, as it was.

    Attributes:
        step: Steps done, this one included.
        epoch: Epoch the step belongs to, from 1.
        loss: Weighted loss, the mean over the step's samples.
        loss_average: Smoothed over about the last 100 steps.
        terms: Named parts of the loss, unweighted means.
        lrs: Learning rate of each group in this step.
        grad_norm: Norm of all gradients together before clipping.
        metrics: The method's own numbers.
        seconds: Wall time of the step.
        images_seen: Samples trained on so far.
        sample_ids: What the step trained on.
    """

    step: int
    epoch: int
    loss: float
    loss_average: float
    terms: Mapping[str, float]
    lrs: Mapping[str, float]
    grad_norm: float
    metrics: Mapping[str, float]
    seconds: float
    images_seen: int
    sample_ids: tuple[str, ...] = ()


class Observer:
    """Watches a run; every answer may stay empty."""

    def on_start(self, run: Run, step: int) -> None:
        """Look at the run before its first step; `step` steps were done before."""

    def on_step(self, run: Run, report: StepReport) -> None:
        """Look at a step, in the steps that are logged."""

    def on_pause(self, run: Run, step: int) -> None:
        """Look at the model after a step that saves, previews or ends an epoch; time spent here is not step time."""

    def on_validation(self, run: Run, report: ValidationReport) -> None:
        """Look at a measurement of held-out images: before the first step, when it is due, and after the last."""

    def on_export(self, run: Run, step: int, files: Sequence[ExportedFile]) -> None:
        """Look at files that were just written, the model with the weights they show; the last come after the end."""

    def on_end(self, run: Run, step: int) -> None:
        """Look at the run after its last step of this start."""


class ObserverGroup:
    """Call observers in order; drop the ones that raise."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._observers = list(observers)

    def notify(self, event: str, *args: Any) -> None:
        """Call `event` of every observer left."""
        for observer in tuple(self._observers):
            try:
                getattr(observer, event)(*args)
            except Exception as error:  # an observer never ends a run (design 3)
                self._observers.remove(observer)
                name = type(observer).__name__
                if is_out_of_memory(error):
                    logger.warning("memory is used up by %s; it is switched off, the training goes on", name)
                else:
                    logger.warning("%s is switched off, the run goes on: %s", name, error or event, exc_info=True)


class MetricsObserver(Observer):
    """Write `metrics.jsonl`: one line a logged step, with losses in full precision."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, run: Run, step: int) -> None:
        """Drop lines of steps that a resumed run will do again, and those a killed one has not finished."""
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        kept = [line + "\n" for line in lines if 0 < _step_of(line) <= step]
        write_text(self._path, "".join(kept), overwrite=True)

    def on_step(self, run: Run, report: StepReport) -> None:
        """Append one line."""
        line = {
            "step": report.step,
            "epoch": report.epoch,
            "loss": report.loss,
            "loss_average": report.loss_average,
            "grad_norm": report.grad_norm,
            "images_seen": report.images_seen,
            "seconds": round(report.seconds, 4),
            "time": round(run.clock.now(), 3),
            **{f"lr/{name}": rate for name, rate in report.lrs.items()},
            **{f"loss/{name}": value for name, value in report.terms.items()},
            **report.metrics,
        }
        plain = {name: value if math.isfinite(value) else None for name, value in line.items()}  # JSON has no infinity
        with self._path.open("r+", encoding="utf-8") as file:  # removed meanwhile: an error, told once
            file.seek(0, os.SEEK_END)
            file.write(json.dumps(plain) + "\n")


def _step_of(line: str) -> int:
    """Read the step of a line; 0 when it is damaged."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return 0


class TensorBoardObserver(Observer):
    """Write TensorBoard events under the names that kohya's users know."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def on_start(self, run: Run, step: int) -> None:
        """Open the event file; events of steps to be done again are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None)

    def on_step(self, run: Run, report: StepReport) -> None:
        """Write the step's numbers."""
        if not self._folder.is_dir():  # its writer would go on writing to a file that nobody sees
            raise PlatformError(f"{self._folder} is gone")
        scalars = {
            "loss/current": report.loss,
            "loss/average": report.loss_average,
            "grad_norm": report.grad_norm,
            **{f"lr/{name}": rate for name, rate in report.lrs.items()},
            **report.metrics,
        }
        if len(report.terms) > 1:
            scalars |= {f"loss/{name}": value for name, value in report.terms.items()}
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, report.step)

    def on_validation(self, run: Run, report: ValidationReport) -> None:
        """Write the loss of held-out images, and that of each part of the timestep range."""
        scalars = {"val/loss": report.result.loss}
        scalars |= {f"val/loss_bin_{number}": loss for number, loss in enumerate(report.result.bins)}
        if report.result.objective is not None:
            scalars["val/objective"] = report.result.objective
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, report.step)

    def on_end(self, run: Run, step: int) -> None:
        """Close the event file."""
        self._writer.close()
