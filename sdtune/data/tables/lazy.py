"""Sequences whose items are made when they are asked for, so that a million of them take no memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


class Lazy(Sequence[T]):
    """Values that are made when they are asked for; equal to any sequence of equal values."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list: found equal to others by walking through it

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)}"


class LazySequence(Lazy[T]):
    """What `make` gives for each of some numbers.

    Args:
        make: Makes an item, a pure function of its number.
        numbers: The numbers, in order.
    """

    def __init__(self, make: Callable[[int], T], numbers: Sequence[int] | NDArray[np.intp]) -> None:
        self._make = make
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> LazySequence[T]: ...
    def __getitem__(self, place: int | slice) -> T | LazySequence[T]:
        if isinstance(place, slice):
            return LazySequence(self._make, self._numbers[place])
        return self._make(int(self._numbers[place]))


def joined(*parts: Sequence[T]) -> Sequence[T]:
    """Give one sequence after the other, as one."""
    starts = [0, *accumulate(map(len, parts))]

    def make(number: int) -> T:
        part = bisect_right(starts, number) - 1
        return parts[part][number - starts[part]]

    return LazySequence(make, range(starts[-1]))
