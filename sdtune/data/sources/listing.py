"""What lies in one folder: images, caption files, folders, and what is of no use."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from sdtune.data.tables.blobs import PathColumn, TextColumn
from sdtune.data.tables.lazy import Lazy
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jfif .png .apng .webp .bmp .tif .tiff .gif .avif .heic .heif .hif".split())
UNREADABLE_SUFFIXES = frozenset(
    ".jxl .jp2 .psd .psb .xcf .svg .exr .cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .pef .srw".split()
)
CAPTION_SUFFIXES = (".txt", ".caption")
_SHOWN = 5
_CONVERT = "convert it to JPEG or PNG"
_DIGITS = re.compile(r"\d+")
_LARGEST = (1 << 63) - 1


class Files(Lazy[Path]):
    """Files: names and facts in few blocks of memory; a path is made when it is asked for.

    Args:
        paths: The files.
        facts: (N, 4) int64 of each: size in bytes, time of its last change and of its status' in ns, and inode.
    """

    def __init__(self, paths: PathColumn, facts: NDArray[np.int64]) -> None:
        self.paths, self.facts = paths, facts
        self._stems: list[str] | None = None

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Files:
        """Ask the system for the facts of files; one that cannot be asked about has none, and will not be found."""
        if isinstance(paths, Files):
            return paths
        kept = list(paths)
        facts = array("q", (fact for path in kept for fact in facts_now(path) or (-1, -1, -1, -1)))
        return cls(PathColumn.of(kept), np.array(facts, dtype=np.int64).reshape(-1, 4))

    @property
    def names(self) -> TextColumn:
        """The names of the files, without their folders."""
        return self.paths.names

    @overload
    def __getitem__(self, row: int) -> Path: ...
    @overload
    def __getitem__(self, row: slice) -> Files: ...
    def __getitem__(self, row: int | slice) -> Path | Files:
        """Give one path, or some files."""
        return Files(self.paths[row], self.facts[row]) if isinstance(row, slice) else self.paths[row]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def take(self, rows: NDArray[np.int64]) -> Files:
        """Give some files."""
        return Files(self.paths.take(rows), self.facts[rows])

    def stems(self) -> Sequence[str]:
        """Give the stem of each file, as `stem_key` does; kept, since much is looked up by it."""
        if self._stems is None:
            self._stems = list(map(stem_of, self.names))
        return self._stems


class FilesByStem(Mapping[str, Path]):
    """Files by their stems; of several of one stem the last counts."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._rows = {stem: row for row, stem in enumerate(files.stems())}

    def row(self, stem: str) -> int | None:
        """Give the place of a stem's file among `files`; None where there is none."""
        return self._rows.get(stem)

    def __getitem__(self, stem: str) -> Path:
        return self.files[self._rows[stem]]

    def __contains__(self, stem: object) -> bool:
        return stem in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of one folder, by what they are; sub-folders are not entered.

    Attributes:
        images: Image files in natural order.
        captions: Suffix (`.txt`, `.caption`) to stem (NFC) to file.
        folders: Sub-folders, hidden ones left out, in natural order.
        ignored: Reason to number of entries that are of no use.
    """

    images: Files
    captions: Mapping[str, FilesByStem]
    folders: tuple[Path, ...]
    ignored: Counter[str]


def natural_key(text: str) -> str:
    """Sort key that puts `2.jpg` before `10.jpg`, the same on every machine; names begin with letters before digits."""
    folded = text.casefold()
    first = "\2" if folded[:1].isdecimal() else "\1"
    return f"{first}{_DIGITS.sub(_number_key, folded)}\0{text}"


def _number_key(match: re.Match[str]) -> str:
    """Write a number so that it sorts by its value: by how many digits it has, then by these."""
    digits = str(int(match[0]))
    return f"\1{chr(len(digits))}{digits}"


def suffix_of(name: str) -> str:
    """Give the suffix of a file's name, with its dot, as `Path.suffix` does."""
    dot = name.rfind(".")
    return name[dot:] if 0 < dot < len(name) - 1 else ""


def stem_of(name: str) -> str:
    """Give the stem by which an image's name and its caption file's belong together, in one Unicode form."""
    dot = name.rfind(".")
    stem = name[:dot] if 0 < dot < len(name) - 1 else name
    return stem if stem.isascii() else unicodedata.normalize("NFC", stem)


def stem_key(path: Path) -> str:
    """Give the stem by which an image and its caption file belong together, in one Unicode form."""
    return stem_of(path.name)


def shorten(names: Sequence[str]) -> str:
    """List up to five names and say how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def list_folder(path: Path, root: Path) -> Listing:
    """List a folder; the system is asked once for each file that is of use.

    Args:
        path: The folder.
        root: Resolved folder that files may not lead out of.

    Raises:
        DataError: Images or captions that are links out of the root, or no regular files; image formats that cannot
            be read; file names that are not valid UTF-8.
    """
    found = {kind: _Gathered() for kind in ("images", *CAPTION_SUFFIXES)}
    folders: list[str] = []
    ignored: Counter[str] = Counter()
    errors: dict[str, DataError] = {}
    for entry in scan_entries(path):
        name = entry.name
        suffix = suffix_of(name).lower()
        kind = "images" if suffix in IMAGE_SUFFIXES else suffix
        if name.startswith(".") or name == "__MACOSX":
            ignored["hidden"] += 1
        elif is_folder(entry):
            folders.append(name)
        elif kind in found:
            try:
                found[kind].add(name, _checked(entry, root))
            except DataError as error:
                errors[name] = error
        elif suffix in UNREADABLE_SUFFIXES:
            errors[name] = DataError(f"{path / name}: {suffix[1:].upper()} cannot be read", hint=_CONVERT)
        else:
            ignored["other"] += 1
    _raise_all(errors[name] for name in sorted(errors, key=natural_key))
    return Listing(
        images=found["images"].files(path, natural_key),
        captions={suffix: FilesByStem(found[suffix].files(path)) for suffix in CAPTION_SUFFIXES},
        folders=tuple(path / name for name in sorted(folders, key=natural_key)),
        ignored=ignored,
    )


def scan_entries(path: Path) -> Iterator[os.DirEntry[str]]:
    """Give what lies in a folder, in no order.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with os.scandir(path) as entries:
            yield from entries
    except OSError as error:
        raise DataError(f"cannot list {path}: {error.strerror}", hint="check its permissions") from error


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one; a link that leads nowhere, or to itself, is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


class _Gathered:
    """Files as they come, to be sorted."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._facts = array("q")

    def add(self, name: str, found: os.stat_result) -> None:
        self._names.append(name)
        self._facts.extend(file_facts(found))

    def files(self, folder: Path, key: Callable[[str], str] = str) -> Files:
        keys = list(map(key, self._names))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        facts = np.array(self._facts, dtype=np.int64).reshape(-1, 4)[order]
        return Files(PathColumn.inside(folder, TextColumn.of(self._names[row] for row in order)), facts)


def file_facts(found: os.stat_result) -> tuple[int, int, int, int]:
    """Give what changes when a file does: size, time of the last change of content and of status in ns, inode."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & _LARGEST


def facts_now(path: Path) -> tuple[int, int, int, int] | None:
    """Ask for the facts of a file; None where there is none."""
    try:
        return file_facts(path.stat())
    except OSError:
        return None


def _checked(entry: os.DirEntry[str], root: Path) -> os.stat_result:
    """Refuse what is no regular file inside the root, and names that cannot be written down."""
    if not (entry.name.isprintable() and _is_plain(entry.path)):
        shown = entry.path.encode("utf-8", "backslashreplace").decode()
        raise DataError(f"the file name {shown!a} is not plain text", hint="rename it")
    if entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
        raise DataError(f"{entry.path} is a link to outside its folder", hint="put a copy of the file there")
    try:
        found = entry.stat()
    except OSError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise DataError(f"{entry.path} is not a regular file", hint="remove it")
    return found


def _is_plain(text: str) -> bool:
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


def _raise_all(errors: Iterable[DataError]) -> None:
    problems = Problems(DataError)
    for error in errors:
        with problems.collect():
            raise error
    problems.raise_if_any()
