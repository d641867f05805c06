"""Regularization images take turns: each epoch sees as many, and after some epochs every one was seen equally often."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.order.pool import Visits, shuffled
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from sdtune.data.order.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rotation:
    """Regularization images of one bucket that take turns.

    Attributes:
        name: Tells it from other rotations of the bucket.
        pool: The images; in a round of theirs each has its repeats.
        visits: How many visits an epoch sees, at least 1; the same number in each.
    """

    name: str
    pool: Pool
    visits: int

    def turn(self, seed: int, epoch: int) -> Visits:
        """List the visits of an epoch: the next of an endless row of rounds, each shuffled."""
        length, first = self.pool.visits, epoch * self.visits
        rounds = range(first // length, (first + self.visits - 1) // length + 1)
        row = Visits.join([self._round(seed, number) for number in rounds])
        start = first - rounds[0] * length
        return row.take(np.arange(start, start + self.visits))

    def _round(self, seed: int, number: int) -> Visits:
        draws = random.Random(derive_seed(seed, "rotation", self.name, str(self.pool.shape.bucket), number))
        visits = self.pool.round(seed, number)
        marked = visits._replace(rounds=np.full_like(visits.rounds, number))
        return marked.take(shuffled(draws, len(visits.images)))
