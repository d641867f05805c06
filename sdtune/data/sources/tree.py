"""Walk through the folders of a data set: what lies in each, and which are left out."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.sources.listing import IMAGE_SUFFIXES, is_folder, list_folder, scan_entries, suffix_of
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sdtune.data.sources.listing import Listing

REGULARIZATION = "named like regularization images"
_REGULARIZATION_NAMES = frozenset({"reg", "regs", "regularization", "regularisation", "reg_images", "reg_data"})
_SUFFIXES = tuple(IMAGE_SUFFIXES)
_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)
_BARE_NUMBER = re.compile(r"[1-9]\d{0,2}")  # 10, and neither 2023 nor 007, which are years and counts


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a list of images says of those of one folder.

    Attributes:
        path: The list.
        captions: Image to caption, of those that have one in it.
        masks: Image to mask, of those that have one in it.
    """

    path: Path
    captions: Mapping[Path, str]
    masks: Mapping[Path, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder with images, as it was found.

    Attributes:
        path: The folder.
        parts: The folders below the root that lead to it; empty for the root itself.
        listing: Its files.
        repeats: Visits of each image in an epoch, where a list of images says so.
        weight: Weight of their loss, where a list of images says so.
        label: What tells it from another place with the same path.
        listed: What a list of images says of them; None: they come from no list.
    """

    path: Path
    parts: tuple[str, ...]
    listing: Listing
    repeats: float | None = None
    weight: float = 1.0
    label: str = ""
    listed: Listed | None = None

    @property
    def count(self) -> int:
        """Number of images directly in it."""
        return len(self.listing.images)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A folder that is not entered.

    Attributes:
        path: The folder.
        name: Its path below the root.
        reason: Why.
        count: How many files with the suffix of an image lie in it and below; 0 of a link, which is not followed.
        is_link: It is a link.
    """

    path: Path
    name: str
    reason: str
    count: int
    is_link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The folders of one data set.

    Attributes:
        places: All that were entered, also those without images; the root first, then its folders in natural order.
        left_out: Folders that were not.
        notes: What else a user should know.
    """

    places: tuple[Place, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()


def walk(root: Path, reserved: Mapping[Path, str], parts: tuple[str, ...] = (), *, subfolders: bool = True) -> Tree:
    """List all folders from a root downwards. Links are not followed, so that none leads in a circle.

    Args:
        root: The folder to begin with; it is entered whatever it is called.
        reserved: Folders, resolved, that are in use for something else, and for what.
        parts: What the root itself is called, where it is one of several.
        subfolders: Enter the folders in it.

    Raises:
        DataError: Files that cannot be used, and links to folders of images elsewhere; all of them together.
    """
    places, left_out, problems = [], [], Problems(DataError)
    waiting = [(root, parts)]
    top = root.resolve()
    while waiting:
        path, parts = waiting.pop()
        with problems.collect():
            listing = list_folder(path, path.resolve())
            places.append(Place(path=path, parts=parts, listing=listing))
            entered = []
            for child in listing.folders:
                with problems.collect():
                    reason = _reason_against(child, top, reserved) if subfolders else "a folder inside"
                    if reason is None:
                        entered.append((child, (*parts, child.name)))
                    else:
                        left_out.append(_leave_out(child, parts, reason))
            waiting += reversed(entered)
            left_out += _hidden(path, parts) if listing.ignored["hidden"] else ()
    problems.raise_if_any()
    return Tree(places=tuple(places), left_out=tuple(left_out))


def read_number(name: str) -> tuple[float, str] | None:
    """Read what a folder's name says: repeats and class text of `10_sks dog`; of `10`, repeats alone.

    Returns:
        Repeats and class text; None: the name says nothing.
    """
    if numbered := _NUMBERED.fullmatch(name):
        return float(numbered[1]), numbered[2].strip()
    return (float(name), "") if _BARE_NUMBER.fullmatch(name) else None


def is_named_regularization(name: str) -> bool:
    """Tell whether a folder is called as kohya's tools call that of regularization images."""
    numbered = _NUMBERED.fullmatch(name)
    return (numbered[2] if numbered else name).casefold() in _REGULARIZATION_NAMES


def count_images(path: Path) -> int:
    """Count the files with the suffix of an image in a folder and below; links are not followed."""
    return sum(name.lower().endswith(_SUFFIXES) for _, _, names in os.walk(path) for name in names)


def has_entries(path: Path) -> bool:
    """Tell whether there is a file, or a folder with an image or with folders."""
    return path.is_file() or (
        path.is_dir() and any(is_folder(entry) or _is_image(entry.name) for entry in scan_entries(path))
    )


def _leave_out(path: Path, parts: tuple[str, ...], reason: str) -> LeftOut:
    is_link = path.is_symlink()
    return LeftOut(
        path=path,
        name="/".join([*parts, path.name]),
        reason=reason,
        count=0 if is_link else count_images(path),
        is_link=is_link,
    )


def _reason_against(child: Path, root: Path, reserved: Mapping[Path, str]) -> str | None:
    target = child.resolve()
    if target in reserved:
        return reserved[target]
    if child.is_symlink():
        if target.is_relative_to(root) or root.is_relative_to(target):
            return "a link to a folder that is read itself"
        if any(_is_image(entry.name) for entry in scan_entries(child)):
            raise DataError(f"{child} is a link", hint="list the folder it leads to in data.subsets")
        return "a link"
    if child.name in ("log", "model") and (child.parent / "img").is_dir():
        return "beside the img folder of kohya's tools"
    if (child / "run.json").is_file():
        return "a run of sdtune"
    return REGULARIZATION if is_named_regularization(child.name) else None


def _hidden(path: Path, parts: tuple[str, ...]) -> Iterator[LeftOut]:
    for entry in sorted(scan_entries(path), key=lambda entry: entry.name):
        if (entry.name.startswith(".") or entry.name == "__MACOSX") and is_folder(entry):
            yield _leave_out(path / entry.name, parts, "hidden")


def _is_image(name: str) -> bool:
    return suffix_of(name).lower() in IMAGE_SUFFIXES
