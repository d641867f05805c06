"""Draws of a visit: made by its name, or all there can be, one after the other."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence


class Draws(Protocol):
    """Where draws come from."""

    @property
    def step(self) -> int:
        """Optimizer step, from 0."""

    def choose(self, purpose: str, forms: Sequence[str]) -> str:
        """Give one of the forms."""

    def generator(self, purpose: str) -> random.Random:
        """Give a source of many draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VisitDraws:
    """The draws of one visit, a function of what it is and no other.

    Attributes:
        seed: The run's seed.
        epoch: Epoch, from 0.
        sample_id: The visit's.
        step: Optimizer step, from 0; no draw hangs on it.
    """

    seed: int
    epoch: int
    sample_id: str
    step: int = 0

    def derive(self, purpose: str) -> int:
        """Give a number below 2**63."""
        return derive_seed(self.seed, purpose, self.epoch, self.sample_id)

    def choose(self, purpose: str, forms: Sequence[str]) -> str:
        """Draw one of the forms, each as likely."""
        return forms[self.derive(purpose) % len(forms)]

    def generator(self, purpose: str) -> random.Random:
        """Give a source of many draws."""
        return random.Random(self.derive(purpose))


class Script:
    """Choices that are settled beforehand; past their end the first form is chosen."""

    step = 0

    def __init__(self, choices: Sequence[int] = ()) -> None:
        self._choices = choices
        self._made: list[tuple[int, int]] = []  # each choice, and among how many

    def choose(self, purpose: str, forms: Sequence[str]) -> str:
        """Give the form the script says."""
        place = len(self._made)
        choice = self._choices[place] if place < len(self._choices) else 0
        self._made.append((choice, len(forms)))
        return forms[choice]

    def generator(self, purpose: str) -> random.Random:
        """Refuse: tags that are shuffled or left out cannot be listed."""
        raise AssertionError(purpose)

    def next(self) -> Script | None:
        """Give the script of the next series of choices, the last one changing fastest; None after the last series."""
        made = list(self._made)
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return None
        return Script([*(choice for choice, _ in made[:-1]), made[-1][0] + 1])
