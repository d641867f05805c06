"""Captions from a table: which row belongs to which image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.sources.image_lists import name_key, read_list, without_suffix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sdtune.data.sources.folders import Folder


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
    users: dict[Path, list[Folder]] = {}
    for folder in folders:
        table = folder.options.captions_json
        if folder.listed is not None and folder.listed.path == table:
            found |= {folder.prefix + image.name: text for image, text in folder.listed.captions.items()}
        elif table is not None:
            users.setdefault(table, []).append(folder)
    for path, group in users.items():
        found |= match_captions(read_caption_table(path), path.parent, group)
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
    captions: dict[str, str] = {}
    rest: list[tuple[str, Path]] = []
    place = name_key(str(root.absolute()))
    for folder in folders:
        above = name_key(str(folder.path.absolute()))
        below = f"{above}/".removeprefix(f"{place}/")
        for path in folder.listing.images:
            name = name_key(path.name)
            names = (name, without_suffix(name))
            exact = (start + end for start in (below, f"{above}/", folder.prefix) for end in names)
            if (key := next((key for key in exact if key in table), None)) is None:
                rest.append((folder.prefix + path.name, path))
            else:
                captions[folder.prefix + path.name] = table[key]
    return captions | _match_ends(table, rest, folders) if rest else captions


def _match_ends(
    table: Mapping[str, str], images: Sequence[tuple[str, Path]], folders: Sequence[Folder]
) -> dict[str, str]:
    """Give images the row that names an end of their path, the longest, if no other image has that end."""
    longest = max((key.count("/") + 1 for key in table), default=0)
    claims: dict[str, set[Path]] = {}
    for path in (path for folder in folders for path in folder.listing.images):
        for key in _ends(path, longest):
            if key in table:
                claims.setdefault(key, set()).add(path)
    found = {}
    for name, path in images:
        sole = next((key for key in _ends(path, longest) if len(claims.get(key, ())) == 1), None)
        if sole is not None:
            found[name] = table[sole]
    return found


def _ends(path: Path, longest: int) -> Iterator[str]:
    """Name an image by its file name and more and more of the folders before it, the longest first."""
    parts = name_key(str(path.absolute())).split("/")
    for length in range(min(longest, len(parts)), 0, -1):
        end = "/".join(parts[-length:])
        yield end
        yield without_suffix(end)
