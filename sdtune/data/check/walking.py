"""Walk through folders without being stopped by anything in them: which files are what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.data.sources.listing import CAPTION_SUFFIXES, IMAGE_SUFFIXES, natural_key

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFiles:
    """The files of one folder, by what their names say; hidden ones are left out.

    Attributes:
        path: The folder.
        images: Images, in natural order.
        captions: Caption files.
        others: Anything else.
    """

    path: Path
    images: tuple[Path, ...]
    captions: tuple[Path, ...]
    others: tuple[Path, ...]


def walk(root: Path, depth: int = DEPTH) -> Iterator[FolderFiles]:
    """List a folder and those below it that hold images; links to folders are not followed.

    A folder that cannot be listed is passed over: a run says so itself.
    """
    entries = _entries(root)
    files = [Path(entry) for entry in entries if not entry.is_dir()]
    images = tuple(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    captions = tuple(path for path in files if path.suffix.lower() in CAPTION_SUFFIXES)
    if files:
        known = {*images, *captions}
        others = tuple(path for path in files if path not in known)
        yield FolderFiles(path=root, images=images, captions=captions, others=others)
    for entry in entries if depth else ():
        if entry.is_dir(follow_symlinks=False):
            yield from walk(Path(entry), depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            shown = [entry for entry in found if not entry.name.startswith((".", "__MACOSX"))]
    except OSError:
        return []
    return sorted(shown, key=lambda entry: natural_key(entry.name))
