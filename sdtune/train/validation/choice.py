"""Which step is best, by the loss of held-out images: measured when due, kept as a file, and when to go no further."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.data.index.split import ENOUGH_IMAGES
from sdtune.train.validation.history import History, Measurement
from sdtune.train.validation.measuring import ValidationResult, Validator, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.config.validation import ValidationOptions
    from sdtune.train.assembly.timetable import Timetable
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.run import ExportedFile, Run

logger = logging.getLogger(__name__)
SUFFIX = "-best"
_USUAL_COUNT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """One measurement among those before it.

    Attributes:
        step: Steps done; 0: the model before training.
        result: What was measured.
        base: The model before training; None: it was not measured.
        best: The best step so far, this one included; None: there is none, or too few images to choose.
    """

    step: int
    result: ValidationResult
    base: Measurement | None
    best: Measurement | None

    def describe(self) -> str:
        """Give one line for the screen."""
        result = self.result
        if self.step == 0:
            error = f", standard error {result.standard_error:.4f}" if math.isfinite(result.standard_error) else ""
            return f"validation  base: loss {result.loss:.4f}{error}"
        others = [f"base {self.base.result.loss:.4f}"] if self.base else []
        if self.best:
            is_new = self.best.step == self.step
            others += ["the best step" if is_new else f"best {self.best.result.loss:.4f} at step {self.best.step}"]
        compared = f" ({', '.join(others)})" if others else ""
        return f"validation  step {self.step}: loss {result.loss:.4f}{compared}"


class Choice:
    """Measure a run when it is due, keep the files of its best step, and tell when to go no further.

    Attributes:
        history: What was measured.
    """

    def __init__(self, run: Run, source: InputSource) -> None:
        self._run = run
        self._options = run.options.validation
        self._steps = due_steps(self._options, run.timetable)
        self._last_step = run.timetable.steps
        self._validator = Validator(run, source)
        self.history = History(run.folder.validation, is_written=run.ranks.is_first)
        self._kept: dict[str, Any] = {}

    @property
    def _is_enough(self) -> bool:
        return self._validator.count >= ENOUGH_IMAGES

    def load(self, step: int) -> None:
        """Go on after a step, or start."""
        self.history.load(step)
        kept = self._run.folder.read_facts().get("validation", {}).get("best") or {}
        if all((self._run.folder.exports / name).exists() for name in kept.get("files", ())):
            self._kept = kept

    def is_due(self, step: int) -> bool:
        """Tell whether a step is to be measured and was not yet."""
        return step in self._steps and not self.history.has(step)

    def measure(self, step: int, check: Callable[[], None]) -> ValidationReport:
        """Measure the model as it is now.

        Args:
            step: Steps done.
            check: Called before each image; what it raises ends the measurement, and nothing is noted.
        """
        started = time.perf_counter()
        measurement = Measurement(step=step, result=self._validator.measure(check))
        self.history.add(measurement, time.perf_counter() - started)
        best = self.history.best if self._is_enough else None
        report = ValidationReport(step=step, result=measurement.result, base=self.history.base, best=best)
        logger.info("%s", report.describe())
        return report

    def is_kept(self, report: ValidationReport) -> bool:
        """Tell whether the files of the step that was just measured are wanted.

        After a crash the kept files may be of a later step than the checkpoint; they stay until a better one comes.
        """
        is_best = report.best is not None and report.best.step == report.step
        return is_best and report.result.loss <= self._kept.get("loss", math.inf)

    def keep(self, report: ValidationReport, files: Sequence[ExportedFile]) -> None:
        """Note the files of the best step."""
        self._kept = {"step": report.step, "loss": report.result.loss, "files": [file.path.name for file in files]}

    @property
    def is_over(self) -> bool:
        """Whether the run has waited long enough for something better, and ends before its last step."""
        is_early = not self.history.has(self._last_step)
        return is_early and self._options.patience is not None and self._waited >= self._options.patience

    @property
    def _waited(self) -> int:
        return self.history.waited(self._options.min_delta)

    def write_facts(self) -> None:
        """Write a summary into `run.json`."""
        history = self.history
        facts = {
            "images": self._validator.count,
            "base": history.base.result.loss if history.base else None,
            "last": history.trained[-1].result.loss if history.trained else None,
            "best": self._kept or None,
            "ended_early": self._reason() if self.is_over else None,
        }
        self._run.folder.write_facts({"validation": facts})

    def verdict(self) -> list[str]:
        """Say in the end what the measurements tell, one line each."""
        history, best = self.history, self.history.best
        if not self._is_enough:
            few = f"{self._validator.count} validation images are too few to choose a best step"
            return [f"{few}; {ENOUGH_IMAGES} at least are needed"]
        lines = [self._reason()] if self.is_over else []
        if best is None or not self._kept:
            return [*lines, "no step is best: no loss of validation images is a number"]
        files = [str(self._run.folder.exports / name) for name in self._kept["files"]]
        base = f" (base {history.base.result.loss:.4f})" if history.base else ""
        lines.append(f"best was step {self._kept['step']}: loss {self._kept['loss']:.4f}{base}: {', '.join(files)}")
        return [*lines, *_doubts(best, history)]

    def _reason(self) -> str:
        step = self.history.measured[-1].step
        return f"ended early, after step {step}: no improvement in {self._waited} measurements (validation.patience)"


def due_steps(options: ValidationOptions, timetable: Timetable) -> frozenset[int]:
    """List the steps after which held-out images are measured: the base, those that the options ask for, the last."""
    last, per_epoch = timetable.steps, timetable.steps_per_epoch
    wanted = [options.every_steps, options.every_epochs and options.every_epochs * per_epoch]
    every = [count for count in wanted if count] or [max(1, round(last / _USUAL_COUNT))]
    return frozenset({0, last, *(step for count in every for step in range(count, last, count))})


def validation_facts(run: Run) -> dict[str, str]:
    """Say what is measured, for the plan; empty when nothing is held out."""
    options = run.options.validation
    if run.held_out is None:
        return {}
    count, source = len(run.held_out.index.images), f"from {options.path}" if options.path else "held out"
    losses = count * options.timesteps * options.draws
    few = f"; too few to choose a best step, which takes {ENOUGH_IMAGES}" if count < ENOUGH_IMAGES else ""
    times = len(due_steps(options, run.timetable))
    return {"validation": f"{count} images {source}, {losses} losses each time, {times} times{few}"}


def _doubts(best: Measurement, history: History) -> list[str]:
    """Say where chance may have chosen."""
    lines = []
    if history.base is not None:
        gain = compare(history.base.result, best.result)
        shown = f"{gain.mean:.4f}, standard error {gain.standard_error:.4f}"
        if gain.mean <= 0:
            lines.append(f"no step was better than the base model on validation images; difference {shown}")
        elif not gain.is_clear:
            lines.append(f"not enough data to say that it is better than the base model: difference {shown}")
    last = history.trained[-1]
    if last.step != best.step and not compare(last.result, best.result).is_clear:
        error = compare(last.result, best.result).standard_error
        lines.append(
            f"not enough data to tell it from the last step: loss {last.result.loss:.4f}, standard error "
            f"of the difference {error:.4f}"
        )
    return lines
