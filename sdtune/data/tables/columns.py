"""Columns of a table: many values of one kind in few blocks of memory, made into objects when they are asked for.

A list of a million records takes gigabytes and is copied page by page into every process that counts references to
them; columns take what their bytes take. Columns are values: nothing changes one.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np

from sdtune.data.digests import DIGEST_BYTES
from sdtune.data.tables.lazy import Lazy
from sdtune.data.types import Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

T = TypeVar("T")


def chunked(values: Iterable[T], size: int = 256) -> Iterator[list[T]]:
    """Give values in lists of some length, so that no more are objects at one time."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


def kept(values: NDArray[Any]) -> NDArray[Any]:
    """Make an array read-only."""
    values.setflags(write=False)
    return values


class Column(Lazy[T]):
    """Values of one kind."""

    @classmethod
    @abstractmethod
    def of(cls, values: Iterable[T]) -> Column[T]:
        """Make a column of values; they are not kept."""

    @classmethod
    @abstractmethod
    def join(cls, columns: Sequence[Any]) -> Column[T]:
        """Put columns of this class, one at least, one behind the other."""

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give the values at some places, in the order of `rows`."""

    @abstractmethod
    def at(self, row: int) -> T:
        """Give the value at a place."""

    @abstractmethod
    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, row: int) -> T: ...
    @overload
    def __getitem__(self, row: slice) -> Self: ...
    def __getitem__(self, row: int | slice) -> T | Self:
        """Give one value, or a column of some."""
        if isinstance(row, slice):
            return self.take(np.arange(*row.indices(len(self)), dtype=np.int64))
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.at(row % len(self))

    def __iter__(self) -> Iterator[T]:
        return map(self.at, range(len(self)))


class ArrayColumn(Column[T]):
    """Values that are one row of an array each.

    Attributes:
        array: (N, ...).
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = kept(array)

    @classmethod
    def join(cls, columns: Sequence[ArrayColumn[T]]) -> Self:
        """Put values one behind the other."""
        return cls(np.concatenate([column.array for column in columns]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some values."""
        return type(self)(self.array[rows])

    def __len__(self) -> int:
        return len(self.array)


class DigestColumn(ArrayColumn[str]):
    """Digests of 16 bytes as hex; an empty one stands for what has none yet: (N, 16) uint8, zeros for an empty one."""

    @classmethod
    def of(cls, values: Iterable[str]) -> Self:
        """Make a column of digests.

        Raises:
            ValueError: Something else than 32 hexadecimal digits, or nothing.
        """
        raw = bytearray()
        for text in values:
            data = bytes.fromhex(text) if text else bytes(DIGEST_BYTES)
            if len(data) != DIGEST_BYTES:
                raise ValueError(f"no digest of {DIGEST_BYTES} bytes: {text!r}")
            raw += data
        return cls(np.frombuffer(bytes(raw), np.uint8).reshape(-1, DIGEST_BYTES))

    def at(self, row: int) -> str:
        """Give a digest."""
        data = self.array[row].tobytes()
        return data.hex() if any(data) else ""

    def copies(self) -> list[list[int]]:
        """List the rows that have a digest in common, in order."""
        begin = np.ascontiguousarray(self.array[:, :8]).view(np.uint64).ravel()
        values, counts = np.unique(begin, return_counts=True)
        rows: dict[str, list[int]] = {}
        for row in np.flatnonzero(np.isin(begin, values[counts > 1])).tolist():
            rows.setdefault(self.at(row), []).append(row)
        return [equal for equal in rows.values() if len(equal) > 1]


class NumberColumn(ArrayColumn[int]):
    """Whole numbers: (N,) int32."""

    @classmethod
    def of(cls, values: Iterable[int]) -> Self:
        """Make a column of numbers."""
        return cls(np.fromiter(values, np.int32))

    def at(self, row: int) -> int:
        """Give a number."""
        return int(self.array[row])


class SizeColumn(ArrayColumn[Size]):
    """Widths and heights, px: (N, 2) int32."""

    @classmethod
    def of(cls, values: Iterable[Size]) -> Self:
        """Make a column of sizes."""
        return cls(np.fromiter((side for size in values for side in size), np.int32).reshape(-1, 2))

    def at(self, row: int) -> Size:
        """Give a size."""
        return Size(*self.array[row].tolist())


class ChoiceColumn(Column[T]):
    """Values of which there are few: each once, and a number for every row.

    Attributes:
        choices: The different values, in the order in which they first came.
        numbers: (N,) int32, which of them.
    """

    def __init__(self, choices: Sequence[T], numbers: NDArray[np.int32]) -> None:
        self.choices, self.numbers = tuple(choices), kept(numbers)

    @classmethod
    def of(cls, values: Iterable[T]) -> ChoiceColumn[T]:
        """Make a column of hashable values."""
        found: dict[T, int] = {}
        numbers = np.fromiter((found.setdefault(value, len(found)) for value in values), np.int32)
        return cls(tuple(found), numbers)

    @classmethod
    def join(cls, columns: Sequence[ChoiceColumn[T]]) -> ChoiceColumn[T]:
        """Put columns one behind the other; equal values become one."""
        found: dict[T, int] = {}
        parts = []
        for column in columns:
            own = [found.setdefault(value, len(found)) for value in column.choices]
            parts.append(np.array(own, dtype=np.int32)[column.numbers] if own else column.numbers)
        return cls(tuple(found), np.concatenate(parts))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some values; those that are left without a row go."""
        numbers = self.numbers[rows]
        used = np.bincount(numbers, minlength=len(self.choices)) > 0
        renumbered = np.cumsum(used, dtype=np.int32) - 1
        kept = [choice for choice, is_used in zip(self.choices, used.tolist(), strict=True) if is_used]
        return type(self)(kept, renumbered[numbers].astype(np.int32))

    def map(self, change: Callable[[T], T]) -> ChoiceColumn[T]:
        """Change every value, each of the different ones once."""
        return ChoiceColumn([change(choice) for choice in self.choices], self.numbers)

    def at(self, row: int) -> T:
        """Give a value."""
        return self.choices[int(self.numbers[row])]

    def counts(self) -> dict[T, int]:
        """Count the rows of each value, in the order of `choices`."""
        counts = np.bincount(self.numbers, minlength=len(self.choices)).tolist()
        return dict(zip(self.choices, counts, strict=True))

    def flags(self, holds: Callable[[T], object]) -> NDArray[np.bool_]:
        """Tell where a claim holds, asked once for each different value: (N,) bool."""
        flags = np.array([bool(holds(choice)) for choice in self.choices], dtype=np.bool_)
        found: NDArray[np.bool_] = flags[self.numbers]
        return found

    def __len__(self) -> int:
        return len(self.numbers)


class OptionalColumn(Column[T | None], Generic[T]):
    """Values that many rows lack.

    Attributes:
        kind: What keeps the values.
        places: (N,) int32, place among the values; -1: none.
        values: Those that there are.
    """

    kind: ClassVar[type[Column[Any]]] = ChoiceColumn

    def __init__(self, places: NDArray[np.int32], values: Column[T]) -> None:
        self.places, self.values = kept(places), values

    @classmethod
    def of(cls, values: Iterable[T | None]) -> Self:
        """Make a column of values."""
        places, count = array("i"), 0

        def present() -> Iterator[T]:
            nonlocal count
            for value in values:
                places.append(-1 if value is None else count)
                if value is not None:
                    count += 1
                    yield value

        column = cls.kind.of(present())
        return cls(np.array(places, dtype=np.int32), column)

    @classmethod
    def join(cls, columns: Sequence[OptionalColumn[T]]) -> Self:
        """Put columns one behind the other."""
        places, count = [], 0
        for column in columns:
            places.append(np.where(column.places < 0, np.int32(-1), column.places + np.int32(count)))
            count += len(column.values)
        return cls(np.concatenate(places), cls.kind.join([column.values for column in columns]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some values."""
        return type(self)(self.places[rows], self.values)

    def at(self, row: int) -> T | None:
        """Give a value, or None."""
        place = int(self.places[row])
        return None if place < 0 else self.values.at(place)

    def is_any(self) -> bool:
        """Tell whether a row has a value."""
        return bool((self.places >= 0).any())

    def __len__(self) -> int:
        return len(self.places)
