"""Progress of a run on the console: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sdtune.train.launch import Screen
from sdtune.train.watching.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.progress import TaskID

    from sdtune.train.run import Run
    from sdtune.train.validation.choice import ValidationReport
    from sdtune.train.watching.observers import StepReport

_QUIET_S = 10.0


class _LastingConsole(Console):
    """A console that may go away: a closed terminal or pipe ends what is shown, and not the run."""

    def on_broken_pipe(self) -> None:
        """Say no more, where rich would end the process."""
        self.quiet = True


class ConsoleScreen(Screen):
    """Print on standard error; standard output is for results."""

    def __init__(self) -> None:
        self._console = _LastingConsole(stderr=True, highlight=False, soft_wrap=True)
        self._said_at = 0.0
        self._began: dict[str, tuple[int, float]] = {}

    def say(self, text: str) -> None:
        """Show a line or a paragraph as it is."""
        with suppress(OSError):
            self._console.print(text, markup=False)

    def caching(self, what: str, done: int, count: int) -> None:
        """Show how far a cache is filled: at both ends, and now and then."""
        self._say_now_and_then(f"caching {what}", done, count)

    def drawing(self, what: str, done: int, count: int) -> None:
        """Show how many pictures are drawn, in the same way."""
        self._say_now_and_then(f"drawing {what}", done, count)

    def _say_now_and_then(self, what: str, done: int, count: int) -> None:
        now = time.monotonic()
        first, began = self._began.setdefault(what, (done, now))
        if done in (1, count) or now - self._said_at >= _QUIET_S:
            self._said_at = now
            left = (count - done) * (now - began) / (done - first) if done > first else 0.0
            self.say(f"{what}: {done} of {count}" + (f", {duration(left)} left" if left else ""))

    def observers(self) -> Sequence[Observer]:
        """Give the progress of the training."""
        return (ConsoleObserver(self._console),)


class ConsoleObserver(Observer):
    """Show step, epoch, speed, time left and smoothed loss."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._clock = Speed()
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._said_at = 0.0

    def on_start(self, run: Run, step: int) -> None:
        """Start the bar."""
        self._clock = Speed()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, TextColumn("{task.fields[text]}"), console=self._console)
            self._progress.start()
            self._task = self._progress.add_task("step", total=run.timetable.steps, completed=step, text="")

    def on_step(self, run: Run, report: StepReport) -> None:
        """Show a step."""
        speed = self._clock.add(report.seconds)
        left = (run.timetable.steps - report.step) / speed if speed else 0.0
        text = f"epoch {report.epoch}/{run.timetable.epochs}  {_rate(speed)}  loss {report.loss_average:.4f}"
        if self._progress and self._task is not None:
            self._progress.update(self._task, completed=report.step, text=text)
        elif report.step in (1, run.timetable.steps) or time.monotonic() - self._said_at >= _QUIET_S:
            self._said_at = time.monotonic()
            self._console.print(
                f"step {report.step}/{run.timetable.steps}  {text}  {duration(left)} left", highlight=False
            )

    def on_validation(self, run: Run, report: ValidationReport) -> None:
        """Show the loss of held-out images."""
        self._console.print(report.describe(), markup=False)

    def on_end(self, run: Run, step: int) -> None:
        """Stop the bar."""
        if self._progress:
            self._progress.stop()
            self._progress = None


class Speed:
    """Steps a second, smoothed, without the first step, which warms things up."""

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._seen = 0

    def add(self, seconds: float) -> float:
        """Take in a step's wall time and give steps a second."""
        self._seen += 1
        if self._seconds is None or self._seen == 2:
            self._seconds = seconds
        else:
            self._seconds += 0.1 * (seconds - self._seconds)
        return 1 / self._seconds if self._seconds else 0.0


def duration(seconds: float) -> str:
    """Spell a duration: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _rate(speed: float) -> str:
    return f"{speed:.2f} it/s" if speed >= 1 or speed == 0 else f"{1 / speed:.2f} s/it"
