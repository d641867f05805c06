"""Read the files of a data set, each once: what has not changed since the last time is remembered.

A file counts as unchanged when its size, the times of the last change of its content and of its status, and its inode
are as they were. A file that was changed less than two seconds before it was read is read again, because a second
change might not be seen in its times (git calls such files racy).
"""

from __future__ import annotations

import os
import time
from array import array
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from sdtune.data.digests import bytes_digest
from sdtune.data.index.scan_memory import KnownImages, KnownTexts, Pictures, read_memory, write_memory
from sdtune.data.pictures.images import describe_bytes, read_file
from sdtune.data.sources.listing import facts_now, file_facts, suffix_of
from sdtune.data.tables.blobs import BytesColumn
from sdtune.data.tables.columns import chunked
from sdtune.errors import DataError
from sdtune.files import sweep_drafts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from sdtune.data.pictures.images import ImageHeader
    from sdtune.data.sources.listing import Files, FilesByStem

    Facts = tuple[int, int, int, int]

_RACY_NS = 2 * 10**9
_CTIME = 2  # place among a file's facts
_LARGE_BYTES = 1 << 18  # mean size; threads gain nothing with small files: 10,000 took 0.65 s by one and by four
_AT_ONCE = 64  # files that a thread reads before it asks for more


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What was read of image files.

    Attributes:
        rows: (M,) int64: which of the files could be read, in order.
        pictures: Of these.
        errors: What is wrong with each of the others.
    """

    rows: NDArray[np.int64]
    pictures: Pictures
    errors: Mapping[int, DataError]


class Scan:
    """Read files of folders, and remember what they hold.

    Args:
        place: Folder for what is remembered; None: nothing is.
        workers: Threads that read.
    """

    def __init__(self, place: Path | None = None, workers: int = 0) -> None:
        self._place, self._workers = place, workers
        self._started_ns = time.time_ns()
        if place is not None:
            sweep_drafts(place, is_alone=False, depth="here")

    def read_images(self, files: Files) -> Scanned:
        """Read headers and digests of images."""
        place = self._place_of(files, "images")
        known = read_memory(place, KnownImages) if place else None
        known = known or KnownImages.of_files(files[:0], Pictures.of([]))
        rows = known.rows(files)
        new = np.flatnonzero(rows < 0)
        parts, count, unsettled = [known.pictures], len(known.names), []
        errors: dict[int, DataError] = {}
        for chunk in chunked(zip(new.tolist(), self._read_new(files, new), strict=True)):
            sound = [(row, found) for row, found in chunk if not isinstance(found, DataError)]
            errors |= {row: found for row, found in chunk if isinstance(found, DataError)}
            parts.append(Pictures.of([(found.header, found.digest) for _, found in sound]))
            rows[[row for row, _ in sound]] = range(count, count + len(sound))
            count += len(sound)
            unsettled += [row for row, found in sound if not self.is_settled(files.facts[row], found.facts)]
        readable = np.flatnonzero(rows >= 0)
        pictures = Pictures.join(parts).take(rows[readable])
        is_stale = len(files) - len(new) < len(known.names)
        if place and (is_stale or len(unsettled) + len(errors) < len(new)):
            lasting = np.flatnonzero(~np.isin(readable, unsettled))
            write_memory(place, KnownImages.of_files(files.take(readable[lasting]), pictures.take(lasting)))
        return Scanned(rows=readable, pictures=pictures, errors=errors)

    def texts(self, files: Mapping[str, FilesByStem], most_bytes: int) -> TextReader:
        """Give what reads the small files of one folder, e.g. captions; it remembers them when its block ends.

        Args:
            files: Suffix to files, as a listing has them.
            most_bytes: Of a longer file so many are read.
        """
        return TextReader({suffix: _Texts(self, found, most_bytes) for suffix, found in files.items()})

    def known_texts(self, files: Files) -> KnownTexts:
        """Give what is remembered of small files."""
        place = self._place_of(files, _texts_kind(files))
        return (place and read_memory(place, KnownTexts)) or KnownTexts.of_files(files[:0], BytesColumn.of([]))

    def keep_texts(self, files: Files, lasting: NDArray[np.int64], contents: BytesColumn) -> None:
        """Remember small files.

        Args:
            files: All of the folder.
            lasting: Which of them are known.
            contents: Of those.
        """
        if place := self._place_of(files, _texts_kind(files)):
            write_memory(place, KnownTexts.of_files(files.take(lasting), contents))

    def is_settled(self, listed: NDArray[np.int64], after: Facts | None) -> bool:
        """Tell whether a file was the same before and after it was read, and not changed just before."""
        before = tuple(listed.tolist())
        return before == after and before[_CTIME] < self._started_ns - _RACY_NS

    def _place_of(self, files: Files, kind: str) -> Path | None:
        """Give the file that remembers some kind of files of a folder; those of a list are remembered together."""
        if self._place is None or not len(files):
            return None
        folder = os.path.realpath(os.path.commonpath(files.paths.folders.choices))
        form = "" if len(files.paths.folders.choices) == 1 else "list "
        name = f"{form}{kind} {folder}".encode("utf-8", "surrogateescape")
        key = bytes_digest(name)
        return self._place / f"{key}.scan"

    def _read_new(self, files: Files, rows: NDArray[np.int64]) -> Iterator[_Found | DataError]:
        is_slow = len(rows) > _AT_ONCE and files.facts[rows, 0].mean() > _LARGE_BYTES
        if self._workers < 2 or not is_slow:
            for row in rows.tolist():
                yield _read_image(files[row])
            return
        pool = ThreadPoolExecutor(self._workers)
        try:
            for found in pool.map(lambda part: [_read_image(files[row]) for row in part], chunked(rows, _AT_ONCE)):
                yield from found
        finally:
            pool.shutdown(cancel_futures=True)


def _texts_kind(files: Files) -> str:
    return f"texts{suffix_of(files.names[0]).lower()}" if len(files) else "texts"


class TextReader:
    """Read small files of one folder; in the end they are remembered."""

    def __init__(self, texts: Mapping[str, _Texts]) -> None:
        self._texts = texts

    def __call__(self, suffix: str, stem: str) -> bytes | None:
        """Give the bytes of the file of a suffix and a stem; None where there is none.

        Raises:
            DataError: It cannot be read.
        """
        texts = self._texts[suffix]
        row = texts.files.row(stem)
        return None if row is None else texts.read(row)

    def path(self, suffix: str, stem: str) -> Path:
        """Give the path of a file, for messages."""
        return self._texts[suffix].files[stem]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for texts in self._texts.values():
            texts.close()


class _Texts:
    """Small files of one suffix; nothing is done before the first is asked for."""

    def __init__(self, scan: Scan, files: FilesByStem, most_bytes: int) -> None:
        self.files = files
        self._scan, self._most_bytes = scan, most_bytes
        self._known: KnownTexts | None = None
        self._rows = array("q")
        self._new: dict[int, bytes] = {}

    def read(self, row: int) -> bytes:
        known = self._known or self._open()
        place = self._rows[row]
        return known.contents.at(place) if place >= 0 else self._read(row)

    def close(self) -> None:
        if self._known is None:
            return
        rows, new = np.array(self._rows, dtype=np.int64), sorted(self._new)
        is_stale = int((rows >= 0).sum()) < len(self._known.names)
        if not new and not is_stale:
            return
        rows[new] = np.arange(len(new)) + len(self._known.names)
        lasting = np.flatnonzero(rows >= 0)
        contents = BytesColumn.join([self._known.contents, BytesColumn.of(self._new[row] for row in new)])
        self._scan.keep_texts(self.files.files, lasting, contents.take(rows[lasting]))

    def _open(self) -> KnownTexts:
        self._known = self._scan.known_texts(self.files.files)
        self._rows = array("q", self._known.rows(self.files.files).tobytes())
        return self._known

    def _read(self, row: int) -> bytes:
        path = self.files.files[row]
        try:
            with path.open("rb") as file:
                data = file.read(self._most_bytes)
                after = file_facts(os.fstat(file.fileno()))
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
        if self._scan.is_settled(self.files.files.facts[row], after):
            self._new[row] = data
        return data


@dataclass(frozen=True, slots=True)
class _Found:
    header: ImageHeader
    digest: str
    facts: Facts | None


def read_image(path: Path) -> tuple[ImageHeader, str]:
    """Read an image file once, for its header and its digest.

    Raises:
        DataError: It cannot be read, or is no image.
    """
    data = read_file(path)
    return describe_bytes(data, path), bytes_digest(data)


def _read_image(path: Path) -> _Found | DataError:
    try:
        header, digest = read_image(path)
    except DataError as error:
        return error
    return _Found(header, digest, facts_now(path))
