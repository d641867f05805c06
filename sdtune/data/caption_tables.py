"""Captions from a table: which row belongs to which image."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from sdtune.data.image_lists import name_key, read_list, without_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sdtune.data.folders import Folder


def read_caption_table(path: Path) -> Mapping[str, str]:
    """Read a map from image to caption: a JSON map, kohya's metadata, or JSON lines with `file_name` and `text`.

    Returns:
        Name as written (in one form: `name_key`) to caption; rows without a caption are left out.

    Raises:
        DataError: It is missing or no such table; all rows that cannot be used together.
    """
    table = read_list(path, where="data.captions_json")
    return {name_key(entry.name): entry.caption for entry in table.images if entry.caption is not None}


def captions_by_name(folders: Sequence[Folder]) -> dict[str, str]:
    """Find the captions of all images whose folder has a caption table.

    Returns:
        Name in the data set (`Folder.prefix` and file name) to caption; images that no row fits are left out.

    Raises:
        DataError: As `read_caption_table`.
    """
    found: dict[str, str] = {}
    paths = dict.fromkeys(folder.options.captions_json for folder in folders)
    for path in paths:
        if path is not None:
            users = [folder for folder in folders if folder.options.captions_json == path]
            found |= match_captions(read_caption_table(path), path.parent, users)
    return found


def match_captions(table: Mapping[str, str], root: Path, folders: Sequence[Folder]) -> dict[str, str]:
    """Give each image the row that names it.

    A row names an image by its path (absolute, or in the table's folder), by its name in the data set, or by an end
    of its path, with or without suffix. What could be several images is none of them.

    Args:
        table: Key, in the form of `name_key`, to caption.
        root: The table's folder.
        folders: Folders whose images it may name.

    Returns:
        Name in the data set to caption.
    """
    longest = max((key.count("/") + 1 for key in table), default=0)
    images = [(folder.prefix + path.name, path) for folder in folders for path in folder.listing.images]
    claims: dict[str, set[Path]] = {}
    for _, path in images:
        for key in _ends(path, longest):
            if key in table:
                claims.setdefault(key, set()).add(path)
    captions = {}
    for name, path in images:
        exact = (key for key in _exact(name, path, root) if key in table)
        sole = (key for key in _ends(path, longest) if key in table and len(claims[key]) == 1)
        if (best := next(chain(exact, sole), None)) is not None:
            captions[name] = table[best]
    return captions


def _exact(name: str, path: Path, root: Path) -> Iterator[str]:
    """Name an image in the ways that leave no doubt."""
    absolute, place = name_key(str(path.absolute())), name_key(str(root.absolute()))
    for key in (absolute, absolute.removeprefix(f"{place}/"), name_key(name)):
        yield key
        yield without_suffix(key)


def _ends(path: Path, longest: int) -> Iterator[str]:
    """Name an image by its file name and more and more of the folders before it, the longest first."""
    parts = name_key(str(path.absolute())).split("/")
    for length in range(min(longest, len(parts)), 0, -1):
        end = "/".join(parts[-length:])
        yield end
        yield without_suffix(end)
