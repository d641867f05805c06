"""Columns of a table: many values of one kind in few blocks of memory, made into objects when they are asked for.

A list of a million records takes gigabytes and is copied page by page into every process that counts references to
them; columns take what their bytes take. Columns are values: nothing changes one.
"""

from __future__ import annotations

from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast, overload

import numpy as np

from sdtune.data.types import Size

if TYPE_CHECKING:
    from numpy.typing import NDArray

T = TypeVar("T")

DIGEST_BYTES = 16


def chunked(values: Iterable[T], size: int = 4096) -> Iterator[list[T]]:
    """Give values in lists of some length, so that no more are objects at one time."""
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _kept(values: NDArray[Any]) -> NDArray[Any]:
    values.setflags(write=False)
    return values


class Column(Sequence[T]):
    """Values of one kind; equal to any sequence of equal values."""

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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list: found equal to others by walking through it

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self)}"


class TextColumn(Column[str]):
    """Texts: one block of UTF-8, and where in it each begins; neighbours that are equal share their place."""

    def __init__(self, blob: bytes | bytearray, starts: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
        self._blob, self._starts, self._lengths = blob, _kept(starts), _kept(lengths)

    @classmethod
    def of(cls, values: Iterable[str]) -> TextColumn:
        """Make a column of texts, lone surrogates too."""
        blob, starts, lengths = bytearray(), array("q"), array("i")
        last, start, length = "", 0, 0
        for text in values:
            if text != last:
                data = text.encode("utf-8", "surrogatepass")
                last, start, length = text, len(blob), len(data)
                blob += data
            starts.append(start)
            lengths.append(length)
        return cls(blob, np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.int32))

    @classmethod
    def join(cls, columns: Sequence[TextColumn]) -> TextColumn:
        """Put texts one behind the other; columns parted from one share its block."""
        blobs = list({id(column._blob): column._blob for column in columns}.values())
        ends = np.cumsum([0, *map(len, blobs)])
        shifts = {id(blob): int(shift) for blob, shift in zip(blobs, ends, strict=False)}
        blob = blobs[0] if len(blobs) == 1 else b"".join(blobs)
        starts = [column._starts + shifts[id(column._blob)] for column in columns]
        return cls(blob, np.concatenate(starts), np.concatenate([column._lengths for column in columns]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some texts; the block stays one."""
        return type(self)(self._blob, self._starts[rows], self._lengths[rows])

    def at(self, row: int) -> str:
        """Give a text."""
        start = int(self._starts[row])
        return self._blob[start : start + int(self._lengths[row])].decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[str]:
        last, text = (0, 0), ""
        for chunk in chunked(range(len(self))):
            part = slice(chunk[0], chunk[-1] + 1)
            for place in zip(self._starts[part].tolist(), self._lengths[part].tolist(), strict=True):
                if place != last:
                    text = self._blob[place[0] : place[0] + place[1]].decode("utf-8", "surrogatepass")
                    last = place
                yield text


class ArrayColumn(Column[T]):
    """Values that are one row of an array each.

    Attributes:
        array: (N, ...).
    """

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = _kept(array)

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

    def groups(self) -> NDArray[np.int64]:
        """Number the digests: (N,) int64, equal where they are."""
        if not len(self):
            return np.empty(0, np.int64)
        _, numbers = np.unique(self.array.view(f"V{DIGEST_BYTES}").ravel(), return_inverse=True)
        return numbers.astype(np.int64)


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
        self.choices, self.numbers = tuple(choices), _kept(numbers)

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


class PathColumn(Column[Path]):
    """Files: few folders and many names.

    Attributes:
        folders: Where each file lies.
        names: Its name there.
    """

    def __init__(self, folders: ChoiceColumn[Path], names: TextColumn) -> None:
        self.folders, self.names = folders, names

    @classmethod
    def of(cls, values: Iterable[Path]) -> PathColumn:
        """Make a column of paths."""
        parts = [
            cls(ChoiceColumn.of(path.parent for path in chunk), TextColumn.of(path.name for path in chunk))
            for chunk in chain([[]], chunked(values))
        ]
        return cls.join(parts)

    @classmethod
    def join(cls, columns: Sequence[PathColumn]) -> PathColumn:
        """Put paths one behind the other."""
        folders = ChoiceColumn.join([column.folders for column in columns])
        return cls(folders, TextColumn.join([column.names for column in columns]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some paths."""
        return type(self)(self.folders.take(rows), self.names.take(rows))

    def at(self, row: int) -> Path:
        """Give a path."""
        return self.folders.at(row) / self.names.at(row)

    def __len__(self) -> int:
        return len(self.names)


class OptionalColumn(Column[T | None], Generic[T]):
    """Values that many rows lack.

    Attributes:
        places: (N,) int32, place among the values; -1: none.
        values: Those that there are.
    """

    def __init__(self, places: NDArray[np.int32], values: Column[T]) -> None:
        self.places, self.values = _kept(places), values

    @classmethod
    def of_kind(cls, kind: type[Column[T]], values: Iterable[T | None]) -> OptionalColumn[T]:
        """Make a column of values, those that there are in a column of a kind."""
        places = array("i")

        def present() -> Iterator[T]:
            count = 0
            for value in values:
                places.append(-1 if value is None else count)
                if value is not None:
                    count += 1
                    yield value

        column = kind.of(present())
        return cls(np.array(places, dtype=np.int32), column)

    @classmethod
    def of(cls, values: Iterable[T | None]) -> OptionalColumn[T]:
        """Make a column of values of which there are few."""
        return cls.of_kind(cast("type[Column[T]]", ChoiceColumn), values)

    @classmethod
    def join(cls, columns: Sequence[OptionalColumn[T]]) -> OptionalColumn[T]:
        """Put columns one behind the other."""
        places, count = [], 0
        for column in columns:
            places.append(np.where(column.places < 0, np.int32(-1), column.places + np.int32(count)))
            count += len(column.values)
        values = type(columns[0].values).join([column.values for column in columns])
        return cls(np.concatenate(places), values)

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
