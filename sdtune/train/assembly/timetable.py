"""Which batches make which optimizer step: arithmetic only, so that a step number is a complete position."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class MicroStep(NamedTuple):
    """One forward and backward: a batch of an epoch (0-based)."""

    epoch: int
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """The steps of a run.

    Attributes:
        batches_per_epoch: Micro-batches in an epoch.
        accumulation: Micro-batches in one optimizer step; the last step of an epoch may have fewer.
        steps: Optimizer steps in the whole run.
    """

    batches_per_epoch: int
    accumulation: int
    steps: int

    @classmethod
    def plan(
        cls, *, batches_per_epoch: int, accumulation: int, steps: int | None = None, epochs: int | None = None
    ) -> Timetable:
        """Count steps from epochs, or take them as given; `steps` wins when it ends earlier."""
        per_epoch = math.ceil(batches_per_epoch / accumulation)
        wanted = [count for count in (steps, epochs * per_epoch if epochs else None) if count is not None]
        return cls(batches_per_epoch=batches_per_epoch, accumulation=accumulation, steps=min(wanted))

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return math.ceil(self.batches_per_epoch / self.accumulation)

    @property
    def epochs(self) -> int:
        """Epochs in the run, counting a last one that is cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def micro_steps(self, step: int) -> tuple[MicroStep, ...]:
        """List the batches of optimizer step `step`, 0-based."""
        epoch, place = divmod(step, self.steps_per_epoch)
        first = place * self.accumulation
        last = min(first + self.accumulation, self.batches_per_epoch)
        return tuple(MicroStep(epoch, batch) for batch in range(first, last))

    def epochs_done(self, steps_done: int) -> int:
        """Count complete epochs after `steps_done` steps."""
        return steps_done // self.steps_per_epoch

    def ends_epoch(self, steps_done: int) -> bool:
        """Tell whether an epoch is complete exactly after `steps_done` steps."""
        return steps_done % self.steps_per_epoch == 0
