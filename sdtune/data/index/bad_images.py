"""Images that cannot be read, left out before anything is planned (`data.bad_images: skip`)."""

from __future__ import annotations

import logging
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from sdtune.data.pictures.images import open_image, read_file
from sdtune.data.sources.listing import Files, shorten
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from sdtune.data.sources.folders import Folder

logger = logging.getLogger(__name__)

_MOST = 100  # one bad image in so many


def leave_out_bad(folders: Sequence[Folder]) -> tuple[tuple[Folder, ...], list[str]]:
    """Decode every image, since nothing else shows that a file is cut off, and leave out those that cannot be read.

    What an epoch is made of must not change later, so this is done before it is planned. A JPEG is decoded at an
    eighth of its size: all of the file is read, in a third of the time.

    Returns:
        The folders without them, and notes for the user; each image is also told in the log, with the reason.

    Raises:
        DataError: More than one in a hundred, rounded up; all of them.
    """
    total = sum(len(folder.listing.images) for folder in folders)
    bad = {path: error for folder in folders for path in folder.listing.images if (error := why_bad(path))}
    allowed = -(-total // _MOST)
    if len(bad) > allowed:
        problems = Problems(DataError)
        problems.add(
            f"{len(bad)} of {total} images cannot be read; data.bad_images=skip leaves out {allowed} of them at most"
        )
        for error in bad.values():
            with problems.collect():
                raise error
        problems.raise_if_any()
    for error in bad.values():
        logger.warning("left out: %s", error)
    notes = [f"left out, since they cannot be read: {shorten([path.name for path in bad])}"] if bad else []
    left = [_without(folder, bad.keys()) for folder in folders]
    return tuple(folder for folder in left if folder.listing.images), notes


def tell_cut_off(paths: Iterable[Path], problems: Problems) -> None:
    """Decode images whose headers are sound, where others cannot be read at all, so that a user hears of all at once.

    Args:
        paths: The images.
        problems: Where those that are cut off are added.
    """
    for path in paths:
        if error := why_bad(path):
            with problems.collect():
                raise error


def why_bad(path: Path) -> DataError | None:
    """Decode an image as cheaply as can be, and tell why it cannot be; None when it can."""
    try:
        with open_image(BytesIO(read_file(path)), path) as image:
            if isinstance(image, JpegImageFile):
                image.draft("L", (1, 1))
            image.load()
    except DataError as error:
        return error
    return None


def _without(folder: Folder, bad: Collection[Path]) -> Folder:
    images = Files.of(folder.listing.images)
    kept = images.take(np.flatnonzero([path not in bad for path in images]))
    return replace(folder, listing=replace(folder.listing, images=kept))
