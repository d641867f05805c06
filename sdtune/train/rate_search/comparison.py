"""Short trainings at several learning rates, compared on images they have not seen."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sdtune.config.rates import MAX_RATE
from sdtune.config.validation import ValidationOptions
from sdtune.data.index.split import ENOUGH_IMAGES
from sdtune.errors import NumericsError
from sdtune.train.machine.memory import return_freed_memory
from sdtune.train.rate_search.found_rate import both, rounded
from sdtune.train.rate_search.trial import computing, train_trial
from sdtune.train.validation.measuring import Validator, compare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sdtune.config.compose import Loaded
    from sdtune.config.schema import CoreOptions
    from sdtune.train.launch import Launch
    from sdtune.train.run import Run
    from sdtune.train.saving.folder import RunFolder
    from sdtune.train.validation.measuring import ValidationResult

_SHARE = 0.1
_LARGEST_SHARE = 0.25
FEWEST_IMAGES = math.ceil(ENOUGH_IMAGES / _LARGEST_SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A short training at one rate.

    Attributes:
        rate: The learning rate.
        result: The loss of held-out images after it; None: it diverged.
    """

    rate: float
    result: ValidationResult | None

    @property
    def loss(self) -> float:
        """The loss; infinity where it is no number."""
        loss = math.inf if self.result is None else self.result.loss
        return loss if math.isfinite(loss) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What the short trainings gave.

    Attributes:
        outcomes: By rate, rising.
        steps: How long each was.
        images: How many images were measured.
    """

    outcomes: tuple[Outcome, ...]
    steps: int
    images: int

    @property
    def best(self) -> Outcome | None:
        """The one with the lowest loss; None: all diverged."""
        best = min(self.outcomes, key=lambda outcome: outcome.loss)
        return best if math.isfinite(best.loss) else None

    def describe(self) -> list[str]:
        """Give a table, and what it says."""
        best = self.best
        lines = [f"held-out loss after {self.steps} steps, {self.images} images:"]
        lines += [f"  {_row(outcome, best)}" for outcome in self.outcomes]
        if best is None:
            return [*lines, "every rate diverged"]
        equal = [outcome for outcome in self._rivals(best) if not _is_clear(outcome, best)]
        if not equal:
            return [*lines, f"best: {both(best.rate)}"]
        others = ", ".join(f"{outcome.rate:.2e}" for outcome in equal)
        return [*lines, f"best: {both(best.rate)}, but {others} may be as good: the difference is within noise"]

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data; a loss is null where the training diverged."""
        rows = [
            {"rate": outcome.rate, "loss": outcome.loss if math.isfinite(outcome.loss) else None}
            for outcome in self.outcomes
        ]
        return {"steps": self.steps, "images": self.images, "outcomes": rows}

    def _rivals(self, best: Outcome) -> Iterable[Outcome]:
        return (outcome for outcome in self.outcomes if outcome is not best and math.isfinite(outcome.loss))


def grid(rate: float, count: int) -> tuple[float, ...]:
    """Give `count` rates around one, in steps of about three: a tenth, a third, the rate, 3 and 10 times it."""
    rates = (rounded(rate * _factor(place)) for place in range(-(count // 2), count - count // 2))
    return tuple(rate for rate in rates if rate <= MAX_RATE)


def _factor(place: int) -> float:
    if place < 0:
        return 1 / _factor(-place)
    return float((1, 3)[place % 2] * 10 ** (place // 2))


def with_held_out(options: CoreOptions, images: int) -> CoreOptions | None:
    """Hold images out, as the options say, else a tenth of them, and 4 at least; None: there are too few.

    Args:
        options: The run.
        images: How many different images it trains on when nothing is held out.
    """
    if options.validation.is_wanted:
        return options.model_copy(update={"validation": options.validation.model_copy(update={"patience": None})})
    if images < FEWEST_IMAGES:
        return None
    return options.model_copy(update={"validation": ValidationOptions(split=max(_SHARE, ENOUGH_IMAGES / images))})


def compare_rates(
    launch: Launch,
    loaded: Loaded,
    rates: Sequence[float],
    with_rate: Callable[[float], CoreOptions],
    folder: RunFolder,
) -> Comparison | None:
    """Train shortly at each rate, from the same start on the same samples, and measure; nothing is kept.

    Args:
        launch: The start that this is part of.
        loaded: The run's options.
        rates: Learning rates.
        with_rate: Gives the options of a short training at a rate, with images held out.
        folder: Where the log is.

    Returns:
        What came out; None: too few images are held out to tell.

    Raises:
        StoppedError: A stop was asked for.
    """
    outcomes = []
    images = steps = 0
    for number, rate in enumerate(rates, 1):
        gc.collect()  # the run before is full of reference cycles
        return_freed_memory()
        short = launch.assemble(replace(loaded, options=with_rate(rate)), folder)
        images, steps = len(short.held_out.index.images) if short.held_out else 0, short.timetable.steps
        if images < ENOUGH_IMAGES:
            return None
        launch.screen.say(f"comparison {number} of {len(rates)}: {steps} steps at {both(rate)}")
        outcomes.append(Outcome(rate=rate, result=_measure(launch, short)))
        del short
    return Comparison(outcomes=tuple(outcomes), steps=steps, images=images)


def _measure(launch: Launch, run: Run) -> ValidationResult | None:
    with computing(run):
        source = launch.open_source(run)
        try:
            train_trial(launch, run, source, launch.screen.observers() if launch.ranks.is_first else ())
        except NumericsError as error:
            launch.screen.say(f"diverged: {error.problems[0].message}")
            return None
        return Validator(run, source).measure(lambda: launch.stop.check(run.folder.path))


def _is_clear(outcome: Outcome, best: Outcome) -> bool:
    assert outcome.result is not None
    assert best.result is not None
    return compare(outcome.result, best.result).is_clear


def _row(outcome: Outcome, best: Outcome | None) -> str:
    if outcome.result is None or best is None or best.result is None or not math.isfinite(outcome.loss):
        return f"{outcome.rate:.2e}  diverged"
    shown = f"{outcome.rate:.2e}  {outcome.loss:.4f}, standard error {outcome.result.standard_error:.4f}"
    if outcome is best:
        return f"{shown}; best"
    difference = compare(outcome.result, best.result)
    verdict = "clear" if difference.is_clear else "within noise"
    return f"{shown}; {difference.mean:+.4f} ± {difference.standard_error:.4f}, {verdict}"
