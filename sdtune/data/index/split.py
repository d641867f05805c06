"""Which images are held out: decided by their content, so that no copy of one is trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sdtune.config.objective import MaskOptions
from sdtune.data.buckets.placing import place_images
from sdtune.data.digests import bytes_digest
from sdtune.data.index.building import build_index, digest_images
from sdtune.data.sources.listing import shorten
from sdtune.data.tables.records import PlacementTable
from sdtune.data.types import Visit
from sdtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.config.validation import ValidationOptions
    from sdtune.data.index.building import DataIndex
    from sdtune.data.tables.records import ImageTable

ENOUGH_IMAGES = 4  # with fewer, chance decides between two steps


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Images that are measured and never trained on.

    Attributes:
        index: One image of each content, by rank.
        placements: How each comes to its bucket.
    """

    index: DataIndex
    placements: PlacementTable

    def visits(self) -> tuple[Visit, ...]:
        """Give the one visit of each image; what is drawn for it hangs on its content, not on its name."""
        return tuple(Visit(image=number, sample_id=digest) for number, digest in enumerate(self.index.images.digests))


def hold_out(index: DataIndex, options: DataOptions, validation: ValidationOptions) -> tuple[DataIndex, HeldOut | None]:
    """Part a data set into what is trained on and what is measured; they share no content.

    Args:
        index: All images.
        options: How they were read; a folder of validation images is read in the same way.
        validation: What to hold out.

    Returns:
        The images to train on, with a digest that stands for both, and those to measure; None: nothing is held out.

    Raises:
        ConfigError: The split leaves no image on one side, or there are too few to end a run by.
        DataError: Validation images that cannot be read, or that are training images too.
    """
    if not validation.is_wanted:
        return index, None
    if validation.path is not None:
        rest, held = index, _read_folder(validation.path, options)
        _refuse_shared(index.images, held.images, validation.path)
    else:
        rest, held = _split(index, _choose(index, validation))
    measured = _one_of_each(held.images)[: validation.most_images]
    held = replace(held, images=measured, digest=digest_images(measured))
    if validation.patience is not None and len(measured) < ENOUGH_IMAGES:
        raise ConfigError(
            f"validation.patience takes {ENOUGH_IMAGES} validation images at least, there are {len(measured)}",
            hint="hold out more of them, or leave it out",
        )
    both = bytes_digest(f"{rest.digest} {held.digest}".encode())
    return replace(rest, digest=both), HeldOut(
        index=held, placements=PlacementTable.of(place_images(held.images, options, shapes_from=rest.images))
    )


def content_rank(digest: str) -> str:
    """Give what images are sorted by when some are chosen: it depends on the content alone, and on no seed."""
    return hashlib.blake2b(f"validation {digest}".encode(), digest_size=16).hexdigest()


def _read_folder(path: Path, options: DataOptions) -> DataIndex:
    return build_index(options.model_copy(update={"path": path, "subsets": (), "mask": MaskOptions()}))


def _refuse_shared(trained: ImageTable, held: ImageTable, path: Path) -> None:
    digests = set(held.digests)
    names = {digest: name for digest, name in zip(trained.digests, trained.names, strict=True) if digest in digests}
    pairs = zip(held.digests, held.names, strict=True)
    shared = [f"{name} is {names[digest]}" for digest, name in pairs if digest in names]
    if shared:
        raise DataError(
            f"{len(shared)} validation images are trained on too: {shorten(shared)}",
            where=str(path),
            hint="remove them from one of the folders, or use validation.split instead of validation.path",
        )


def _choose(index: DataIndex, validation: ValidationOptions) -> set[str]:
    """Choose contents in the order of their rank.

    No folder loses its last image, and what is a regularization image too stays.
    """
    assert validation.split is not None
    left = _digests_by_folder(index.instances)
    digests: set[str] = set().union(*left.values())
    wanted = min(round(validation.split * len(digests)), validation.most_images or len(digests))
    if not 0 < wanted < len(digests):
        side = "holds out none of" if wanted == 0 else "leaves nothing to train on of"
        raise ConfigError(
            f"validation.split {validation.split:g} {side} {len(digests)} images",
            hint="choose another share, add images, or give validation.path",
        )
    chosen: set[str] = set()
    for digest in sorted(digests - set(index.regularization.digests), key=content_rank):
        if len(chosen) < wanted and all(folder != {digest} for folder in left.values()):
            chosen.add(digest)
            for folder in left.values():
                folder.discard(digest)
    if not chosen:
        raise ConfigError(
            "validation.split would take the only image of a folder", hint="add images, or give validation.path"
        )
    return chosen


def _digests_by_folder(images: ImageTable) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for subset, digest in zip(images.subsets, images.digests, strict=True):
        found.setdefault(subset.name, set()).add(digest)
    return found


def _split(index: DataIndex, chosen: set[str]) -> tuple[DataIndex, DataIndex]:
    is_held = np.fromiter((digest in chosen for digest in index.images.digests), np.bool_)
    rest, held = index.images.select(~is_held), index.images.select(is_held)
    return replace(index, images=rest, digest=digest_images(rest)), replace(index, images=held, notes=())


def _one_of_each(images: ImageTable) -> ImageTable:
    """Give one image of each content, by rank."""
    rows: dict[str, int] = {}
    for row, digest in enumerate(images.digests):
        rows.setdefault(digest, row)
    return images.select([rows[digest] for digest in sorted(rows, key=content_rank)])
