"""What a scan of a folder found, kept for the next one: a file of arrays in the cache folder, whole or not there.

A file begins with its version and a digest of all that follows; the rest is one block of arrays. It is written beside
its place and renamed, so that two runs at once leave one of both, and a killed one leaves the old; what cannot be read
is as good as nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import PIL
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sdtune.data.digests import DIGEST_BYTES
from sdtune.data.pictures.images import ImageHeader
from sdtune.data.tables.blobs import BytesColumn, TextColumn
from sdtune.data.tables.columns import ChoiceColumn, DigestColumn, SizeColumn
from sdtune.errors import PlatformError
from sdtune.files import writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdtune.data.sources.listing import Files
    from sdtune.data.types import Size

    Arrays = Mapping[str, NDArray[Any]]

VERSION = "1"  # goes up when what is kept changes its meaning
_FACTS = tuple(field.name for field in fields(ImageHeader) if field.name != "size")
_HEAD = f"sdtune scan {VERSION} {PIL.__version__} {' '.join(_FACTS)}\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Files as they were when they were read.

    Attributes:
        names: Their names.
        facts: (N, 4) int64, as `listing.Files` has them.
    """

    names: TextColumn
    facts: NDArray[np.int64]

    def rows(self, files: Files) -> NDArray[np.int64]:
        """Find files: for each its row here, where nothing about it has changed; -1 elsewhere."""
        names = _names(files)
        if self.names.is_same(names):
            rows = np.arange(len(files), dtype=np.int64)
        else:
            places = {name: row for row, name in enumerate(self.names)}
            rows = np.fromiter((places.get(name, -1) for name in names), np.int64)
        if not len(self.names):
            return rows
        is_same = (self.facts[rows] == files.facts).all(axis=1)
        return np.where((rows >= 0) & is_same, rows, -1)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Give all as arrays."""
        blob, lengths = self.names.pack()
        return {"names": _as_array(blob), "name_lengths": lengths, "facts": self.facts}


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownImages(Known):
    """Headers and digests of image files.

    Attributes:
        pictures: Of each file.
    """

    pictures: Pictures

    @classmethod
    def of_files(cls, files: Files, pictures: Pictures) -> Self:
        """Make it of files, and what was found in them."""
        return cls(names=_names(files), facts=files.facts, pictures=pictures)

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` gave."""
        kinds = [_untupled(facts) for facts in json.loads(arrays["kinds"].tobytes())]
        return cls(
            names=TextColumn.unpack(arrays["names"].tobytes(), arrays["name_lengths"]),
            facts=arrays["facts"],
            pictures=Pictures(
                sizes=SizeColumn(arrays["sizes"]),
                kinds=ChoiceColumn(kinds, arrays["kind_numbers"]),
                digests=DigestColumn(arrays["digests"]),
            ),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Give all as arrays."""
        pictures = self.pictures
        return {
            **Known.to_arrays(self),
            "sizes": pictures.sizes.array,
            "kinds": _as_array(json.dumps(pictures.kinds.choices).encode()),
            "kind_numbers": pictures.kinds.numbers,
            "digests": pictures.digests.array,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What is to be known of images without decoding them, row by row.

    Attributes:
        sizes: Widths and heights.
        kinds: What else their headers say, as `kind_of` gives it.
        digests: Digests of the files.
    """

    sizes: SizeColumn
    kinds: ChoiceColumn[tuple[Any, ...]]
    digests: DigestColumn

    @classmethod
    def of(cls, found: Sequence[tuple[ImageHeader, str]]) -> Self:
        """Make it of headers and digests."""
        return cls(
            sizes=SizeColumn.of(header.size for header, _ in found),
            kinds=ChoiceColumn.of(kind_of(header) for header, _ in found),
            digests=DigestColumn.of(digest for _, digest in found),
        )

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put several one behind the other."""
        return cls(
            sizes=SizeColumn.join([part.sizes for part in parts]),
            kinds=ChoiceColumn.join([part.kinds for part in parts]),
            digests=DigestColumn.join([part.digests for part in parts]),
        )

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Give those of some rows."""
        return type(self)(sizes=self.sizes.take(rows), kinds=self.kinds.take(rows), digests=self.digests.take(rows))

    def header(self, row: int) -> ImageHeader:
        """Give a picture's header."""
        return header_of_kind(self.sizes[row], self.kinds[row])

    def headers(self) -> Iterator[ImageHeader]:
        """Give the headers."""
        return map(header_of_kind, self.sizes, self.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTexts(Known):
    """Contents of small files.

    Attributes:
        contents: Bytes of each.
    """

    contents: BytesColumn

    @classmethod
    def of_files(cls, files: Files, contents: BytesColumn) -> Self:
        """Make it of files, and their bytes."""
        return cls(names=_names(files), facts=files.facts, contents=contents)

    @classmethod
    def of(cls, arrays: Arrays) -> Self:
        """Read what `to_arrays` gave."""
        return cls(
            names=TextColumn.unpack(arrays["names"].tobytes(), arrays["name_lengths"]),
            facts=arrays["facts"],
            contents=BytesColumn.unpack(arrays["contents"].tobytes(), arrays["content_lengths"]),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Give all as arrays."""
        blob, lengths = self.contents.pack()
        return {**Known.to_arrays(self), "contents": _as_array(blob), "content_lengths": lengths}


K = TypeVar("K", KnownImages, KnownTexts)


def kind_of(header: ImageHeader) -> tuple[Any, ...]:
    """Give what a header says beside the size."""
    return tuple(getattr(header, name) for name in _FACTS)


def header_of_kind(size: Size, kind: tuple[Any, ...]) -> ImageHeader:
    """Give the header of a size and the rest."""
    return ImageHeader(size=size, **dict(zip(_FACTS, kind, strict=True)))


def read_memory(path: Path, kind: type[K]) -> K | None:
    """Read what was kept; None where there is nothing, or nothing whole, or of another version."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = memoryview(data)[len(_HEAD) + DIGEST_BYTES :]
    if not data.startswith(_HEAD) or data[len(_HEAD) :][:DIGEST_BYTES] != _digest(body):
        return None
    try:
        return kind.of(load(bytes(body)))
    except (SafetensorError, KeyError, ValueError):
        return None


def write_memory(path: Path, known: Known) -> None:
    """Keep what was found, where that can be done: a full disk costs the next scan some time, and nothing else."""
    body = save({name: np.ascontiguousarray(array) for name, array in known.to_arrays().items()})
    try:
        with writing(path, overwrite=True, sync=False) as draft, draft.open("wb") as file:
            file.writelines([_HEAD, _digest(body), body])
    except PlatformError:
        return


def _names(files: Files) -> TextColumn:
    """Give names that tell the files apart: those of one folder by their own names."""
    is_list = len(files.paths.folders.choices) > 1
    return TextColumn.of(map(os.path.realpath, files)) if is_list else files.names


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _as_array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def _untupled(value: Any) -> Any:
    """Give back the tuples that JSON made lists of."""
    return tuple(map(_untupled, value)) if isinstance(value, list) else value
