"""What lies in one folder: images, caption files, folders, and what is of no use."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

IMAGE_SUFFIXES = frozenset(".jpg .jpeg .jfif .png .apng .webp .bmp .tif .tiff .gif .avif .heic .heif .hif".split())
UNREADABLE_SUFFIXES = frozenset(
    ".jxl .jp2 .psd .psb .xcf .svg .exr .cr2 .cr3 .nef .arw .dng .raf .orf .rw2 .pef .srw".split()
)
CAPTION_SUFFIXES = (".txt", ".caption")
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of one folder, by what they are; sub-folders are not entered.

    Attributes:
        images: Image files in natural order.
        captions: Suffix (`.txt`, `.caption`) to stem (NFC) to file.
        folders: Sub-folders, hidden ones left out, in natural order.
        ignored: Reason to number of entries that are of no use.
    """

    images: tuple[Path, ...]
    captions: Mapping[str, Mapping[str, Path]]
    folders: tuple[Path, ...]
    ignored: Counter[str]


def natural_key(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts `2.jpg` before `10.jpg`, the same on every machine."""
    parts = re.findall(r"\d+|\D+", text.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], text


def stem_key(path: Path) -> str:
    """Give the stem by which an image and its caption file belong together, in one Unicode form."""
    return unicodedata.normalize("NFC", path.stem)


def shorten(names: Sequence[str]) -> str:
    """List up to five names and say how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def list_folder(path: Path, root: Path) -> Listing:
    """List a folder.

    Args:
        path: The folder.
        root: Resolved folder that files may not lead out of.

    Raises:
        DataError: Images or captions that are links out of the root, or no regular files; image formats that cannot
            be read; file names that are not valid UTF-8.
    """
    images, folders = [], []
    captions: dict[str, dict[str, Path]] = {suffix: {} for suffix in CAPTION_SUFFIXES}
    ignored: Counter[str] = Counter()
    problems = Problems(DataError)
    for entry in sorted(list_entries(path), key=lambda entry: natural_key(entry.name)):
        suffix = entry.suffix.lower()
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            ignored["hidden"] += 1
        elif entry.is_dir():
            folders.append(entry)
        elif suffix in IMAGE_SUFFIXES:
            with problems.collect():
                images.append(_checked(entry, root))
        elif suffix in captions:
            with problems.collect():
                captions[suffix][stem_key(entry)] = _checked(entry, root)
        elif suffix in UNREADABLE_SUFFIXES:
            problems.add(f"{entry}: {suffix[1:].upper()} cannot be read", hint="convert it to JPEG or PNG")
        else:
            ignored["other"] += 1
    problems.raise_if_any()
    return Listing(images=tuple(images), captions=captions, folders=tuple(folders), ignored=ignored)


def list_entries(path: Path) -> list[Path]:
    """List a folder in no order.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return list(path.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {path}: {error.strerror}", hint="check its permissions") from error


def _checked(path: Path, root: Path) -> Path:
    """Refuse what is no regular file inside the root, and names that cannot be written down."""
    shown = str(path).encode("utf-8", "backslashreplace").decode()
    if shown != str(path) or not path.name.isprintable():
        raise DataError(f"the file name {shown!a} is not plain text", hint="rename it")
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise DataError(f"{path} is a link to outside its folder", hint="put a copy of the file there")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file", hint="remove it")
    return path
