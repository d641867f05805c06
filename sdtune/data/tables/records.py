"""Images and placements of a large data set: columns that read as the list of records they stand for."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from sdtune.data.tables.blobs import PathColumn, TextColumn
from sdtune.data.tables.columns import (
    ChoiceColumn,
    Column,
    DigestColumn,
    NumberColumn,
    OptionalColumn,
    SizeColumn,
    chunked,
)
from sdtune.data.types import ImageRecord, MaskFile, Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from sdtune.data.types import Size, Subset

Row = TypeVar("Row")


class Table(Column[Row]):
    """Rows of one dataclass, kept by columns; a row is made when it is asked for, and not kept.

    A field without a kind of its own in `kinds` has few different values, e.g. its subset.

    Args:
        columns: Field to column, for each field of the row; all of one length.
    """

    row: ClassVar[type[Any]]
    kinds: ClassVar[Mapping[str, type[Column[Any]]]]

    def __init__(self, columns: Mapping[str, Column[Any]]) -> None:
        names = [field.name for field in fields(self.row)]
        if set(columns) != set(names) or len({len(column) for column in columns.values()}) > 1:
            raise ValueError(f"columns of one length for {', '.join(names)} make a table")
        self._columns = {name: columns[name] for name in names}

    @classmethod
    def of(cls, values: Iterable[Row]) -> Self:
        """Make a table of records, which are not kept; a table of this kind is given back as it is."""
        if isinstance(values, cls):
            return values
        return cls.join([cls._part(chunk) for chunk in chain([[]], chunked(values))])

    @classmethod
    def _part(cls, rows: Sequence[Row]) -> Self:
        names = [field.name for field in fields(cls.row)]
        return cls({name: cls._kind(name).of([getattr(row, name) for row in rows]) for name in names})

    @classmethod
    def _kind(cls, name: str) -> type[Column[Any]]:
        return cls.kinds.get(name, ChoiceColumn)

    @classmethod
    def join(cls, columns: Sequence[Table[Row]]) -> Self:
        """Put tables one behind the other."""
        names = [field.name for field in fields(cls.row)]
        return cls({name: cls._kind(name).join([table.column(name) for table in columns]) for name in names})

    def column(self, name: str) -> Column[Any]:
        """Give the column of a field."""
        return self._columns[name]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give some rows, in the order of `rows`."""
        return type(self)({name: column.take(rows) for name, column in self._columns.items()})

    def select(self, rows: ArrayLike) -> Self:
        """Give the rows of some numbers, in their order, or those where a (N,) mask is true."""
        chosen = np.asarray(rows)
        return self.take(np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64))

    def replace(self, columns: Mapping[str, Column[Any]]) -> Self:
        """Give the table with other columns in the place of some."""
        return type(self)({**self._columns, **columns})

    def at(self, row: int) -> Row:
        """Make a record."""
        made: Row = self.row(**{name: column.at(row) for name, column in self._columns.items()})
        return made

    def __len__(self) -> int:
        return len(next(iter(self._columns.values())))

    def __iter__(self) -> Iterator[Row]:
        names = list(self._columns)
        for values in zip(*self._columns.values(), strict=True):
            yield self.row(**dict(zip(names, values, strict=True)))


class MaskTable(Table[MaskFile]):
    """Mask files."""

    row = MaskFile
    kinds: ClassVar = {"path": PathColumn, "digest": DigestColumn}


class MaskColumn(OptionalColumn[MaskFile]):
    """The mask of each image that has one."""

    kind = MaskTable


class ImageTable(Table[ImageRecord]):
    """Images: about 100 bytes each, and the letters of their names and captions."""

    row = ImageRecord
    kinds: ClassVar = {
        "path": PathColumn,
        "name": TextColumn,
        "size": SizeColumn,
        "digest": DigestColumn,
        "caption": TextColumn,
        "mask": MaskColumn,
    }

    @property
    def paths(self) -> Column[Path]:
        """The files."""
        return self.column("path")

    @property
    def names(self) -> Column[str]:
        """The names, by which draws are made."""
        return self.column("name")

    @property
    def captions(self) -> Column[str]:
        """The captions as found."""
        return self.column("caption")

    @property
    def digests(self) -> DigestColumn:
        """Digests of the files."""
        found = self.column("digest")
        assert isinstance(found, DigestColumn)
        return found

    @property
    def sizes(self) -> NDArray[np.int32]:
        """(N, 2) int32: widths and heights after EXIF rotation, px."""
        found = self.column("size")
        assert isinstance(found, SizeColumn)
        return found.array

    @property
    def subsets(self) -> ChoiceColumn[Subset]:
        """The folder of each; `.choices` are the folders, `.numbers` (N,) int32 say which."""
        found = self.column("subset")
        assert isinstance(found, ChoiceColumn)
        return found

    @property
    def masks(self) -> MaskColumn:
        """The mask of each image that has one."""
        found = self.column("mask")
        assert isinstance(found, MaskColumn)
        return found

    def of_subset(self, name: str) -> Self:
        """Give the images of one folder."""
        return self.select(self.subsets.flags(lambda subset: subset.name == name))

    @property
    def is_regularization(self) -> NDArray[np.bool_]:
        """(N,) bool: the image shows the class, not the subject."""
        return self.subsets.flags(lambda subset: subset.is_regularization)

    def map_captions(self, change: Callable[[str], str]) -> Self:
        """Change every caption."""
        return self.replace({"caption": TextColumn.of(map(change, self.captions))})


class PlacementTable(Table[Placement]):
    """Placements: 28 bytes each."""

    row = Placement
    kinds: ClassVar = {"resized": SizeColumn, "left": NumberColumn, "top": NumberColumn}

    @property
    def buckets(self) -> ChoiceColumn[Size]:
        """The bucket of each image; `.choices` are the buckets, `.numbers` (N,) int32 say which."""
        found = self.column("bucket")
        assert isinstance(found, ChoiceColumn)
        return found

    @property
    def resized(self) -> NDArray[np.int32]:
        """(N, 2) int32: widths and heights after resizing, px."""
        found = self.column("resized")
        assert isinstance(found, SizeColumn)
        return found.array
