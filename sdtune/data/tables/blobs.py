"""Columns of what has a length of its own: bytes, texts, and paths."""

from __future__ import annotations

from abc import abstractmethod
from itertools import chain, compress
from operator import ne
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from sdtune.data.tables.columns import ChoiceColumn, Column, chunked, kept

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

T = TypeVar("T", str, bytes)


class BlobColumn(Column[T]):
    """Values in one block of bytes, and where in it each begins; neighbours that are equal share their place."""

    def __init__(self, blob: bytes | bytearray, starts: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
        self._blob, self._starts, self._lengths = blob, kept(starts), kept(lengths)

    @staticmethod
    @abstractmethod
    def encode(value: T) -> bytes:
        """Give a value's bytes."""

    @staticmethod
    @abstractmethod
    def decode(data: bytes | bytearray) -> T:
        """Give the value of some bytes."""

    @classmethod
    def of(cls, values: Iterable[T]) -> Self:
        """Make a column of values."""
        blob, starts, lengths = bytearray(), [np.empty(0, np.int64)], [np.empty(0, np.int32)]
        last = cls.decode(b"")
        for chunk in chunked(values):
            encoded = list(map(cls.encode, chunk))
            is_new = np.fromiter(map(ne, chunk, chain([last], chunk)), np.bool_, len(chunk))
            own = np.fromiter(map(len, encoded), np.int32, len(chunk))
            ends = np.cumsum(np.where(is_new, own, 0), dtype=np.int64)
            starts.append(len(blob) + ends - own)
            lengths.append(own)
            blob += b"".join(compress(encoded, is_new))
            last = chunk[-1]
        return cls(blob, np.concatenate(starts), np.concatenate(lengths))

    @classmethod
    def unpack(cls, blob: bytes, lengths: NDArray[np.int32]) -> Self:
        """Make a column of values that stand one behind the other, as `pack` gives them."""
        return cls(blob, np.cumsum(lengths, dtype=np.int64) - lengths, lengths)

    def pack(self) -> tuple[bytes, NDArray[np.int32]]:
        """Give all values one behind the other, and the length of each in bytes."""
        blob, view = bytearray(), memoryview(self._blob)
        for rows in chunked(zip(self._starts.tolist(), self._lengths.tolist(), strict=True)):
            blob += b"".join([view[start : start + length] for start, length in rows])
        return bytes(blob), self._lengths

    def is_same(self, other: Self) -> bool:
        """Tell whether another column has equal values; quicker than comparing them one by one."""
        return np.array_equal(self._lengths, other._lengths) and self.pack()[0] == other.pack()[0]

    @classmethod
    def join(cls, columns: Sequence[BlobColumn[T]]) -> Self:
        """Put values one behind the other; columns parted from one share its block."""
        blobs: list[bytes | bytearray] = list({id(column._blob): column._blob for column in columns}.values())
        ends = np.cumsum([0, *map(len, blobs)])
        shifts = {id(blob): int(shift) for blob, shift in zip(blobs, ends, strict=False)}
        blob = blobs[0] if len(blobs) == 1 else b"".join(blobs)
        starts = [column._starts + shifts[id(column._blob)] for column in columns]
        return cls(blob, np.concatenate(starts), np.concatenate([column._lengths for column in columns]))

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some values; the block stays one."""
        return type(self)(self._blob, self._starts[rows], self._lengths[rows])

    def at(self, row: int) -> T:
        """Give a value."""
        start = int(self._starts[row])
        return self.decode(self._blob[start : start + int(self._lengths[row])])

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[T]:
        last, value = (0, 0), self.decode(b"")
        for chunk in chunked(range(len(self))):
            part = slice(chunk[0], chunk[-1] + 1)
            for place in zip(self._starts[part].tolist(), self._lengths[part].tolist(), strict=True):
                if place != last:
                    value = self.decode(self._blob[place[0] : place[0] + place[1]])
                    last = place
                yield value


class BytesColumn(BlobColumn[bytes]):
    """Values of bytes."""

    @staticmethod
    def encode(value: bytes) -> bytes:
        """Give the bytes themselves."""
        return value

    @staticmethod
    def decode(data: bytes | bytearray) -> bytes:
        """Give the bytes themselves."""
        return bytes(data)


class TextColumn(BlobColumn[str]):
    """Texts, in UTF-8."""

    @staticmethod
    def encode(value: str) -> bytes:
        """Encode a text, lone surrogates too."""
        return value.encode("utf-8", "surrogatepass")

    @staticmethod
    def decode(data: bytes | bytearray) -> str:
        """Decode a text."""
        return data.decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        if not self._blob.isascii():
            yield from super().__iter__()
            return
        text = self._blob.decode("ascii")  # at once: a third of the time of decoding one by one
        for chunk in chunked(range(len(self))):
            part = slice(chunk[0], chunk[-1] + 1)
            for start, length in zip(self._starts[part].tolist(), self._lengths[part].tolist(), strict=True):
                yield text[start : start + length]


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
    def inside(cls, folder: Path, names: TextColumn) -> PathColumn:
        """Make a column of files of one folder."""
        return cls(ChoiceColumn([folder], np.zeros(len(names), np.int32)), names)

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

    def __iter__(self) -> Iterator[Path]:
        return (folder / name for folder, name in zip(self.folders, self.names, strict=True))

    def __len__(self) -> int:
        return len(self.names)
