"""How each image is brought to the size of a bucket: resized so that it covers it, and cut."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from sdtune.data.buckets.crops import follow_focus
from sdtune.data.buckets.rules import bucket_limits, choose_buckets, floor_to, list_buckets
from sdtune.data.tables.records import ImageTable
from sdtune.data.types import Placement, Size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune.config.buckets import BucketOptions
    from sdtune.config.data import DataOptions
    from sdtune.data.types import ImageRecord, Subset

    Geometry = tuple[Size, BucketOptions]


def place_images(
    images: Sequence[ImageRecord], options: DataOptions, *, shapes_from: Sequence[ImageRecord] | None = None
) -> tuple[Placement, ...]:
    """Place every image, in order, as its folder's options say.

    Images of one size in one folder share a `Placement`, unless they are cut where something is seen in them.

    Args:
        images: Images of any folders.
        options: Those of the data, for folders whose own name no resolution.
        shapes_from: Images in which the rule `ratios` finds its groups, e.g. those trained on when others are placed;
            None: the images themselves. Regularization images follow the groups of the others.

    Raises:
        ConfigError: `data.buckets.max_px` below the resolution's longer side, or more groups than images.
    """
    facts = _facts(images)
    others = facts if shapes_from is None else _facts(shapes_from)
    settled = settle_geometry({subset.name: subset for subset, _ in [*others, *facts]}.values(), options)
    shapes: dict[Geometry, list[Size]] = defaultdict(list)
    for name, found in _by_folder(fact for fact in others if not fact[0].is_regularization).items():
        shapes[_geometry(settled[name])] += found
    tables = {
        name: place_sizes(list(dict.fromkeys(found)), settled[name], shapes[_geometry(settled[name])] or found)
        for name, found in _by_folder(facts).items()
    }
    placed = [tables[subset.name][size] for subset, size in facts]
    return follow_focus(images, placed, settled)


def place_sizes(sizes: Sequence[Size], options: DataOptions, shapes: Sequence[Size]) -> dict[Size, Placement]:
    """Place images of different sizes, cut in the middle.

    Args:
        sizes: Sizes of images.
        options: As they hold for these images, with a resolution.
        shapes: Sizes of the images in which the rule `ratios` finds its groups.

    Raises:
        ConfigError: As `place_images`.
    """
    resolution = Size(*options.size_px)
    if not options.buckets.enabled:
        return {size: place(size, resolution) for size in sizes}
    if options.buckets.no_upscale:
        _, _, step_px = bucket_limits(resolution, options.buckets)
        return {size: place_own(size, resolution, step_px) for size in sizes}
    buckets = choose_buckets(sizes, list_buckets(options, shapes), enlarges=options.buckets.rule != "fixed")
    return {size: place(size, bucket) for size, bucket in zip(sizes, buckets, strict=True)}


def settle_geometry(subsets: Iterable[Subset], options: DataOptions) -> dict[str, DataOptions]:
    """Give the options by which each folder's images are resized and cut, by the folder's name.

    Regularization images go to the buckets of the folders they belong to, so that they meet in batches of one size;
    where those folders do not agree, to those of the data.
    """
    known = list(subsets)
    own = {it.name: it.options if it.options.resolution else options for it in known if not it.is_regularization}
    return {it.name: _paired(it, own, options) if it.is_regularization else own[it.name] for it in known}


def _facts(images: Sequence[ImageRecord]) -> list[tuple[Subset, Size]]:
    table = ImageTable.of(images)
    return list(zip(table.subsets, table.column("size"), strict=True))


def _by_folder(facts: Iterable[tuple[Subset, Size]]) -> dict[str, list[Size]]:
    found: dict[str, list[Size]] = defaultdict(list)
    for subset, size in facts:
        found[subset.name].append(size)
    return found


def _paired(subset: Subset, own: Mapping[str, DataOptions], options: DataOptions) -> DataOptions:
    theirs = [own[name] for name in subset.pairs_with or own if name in own]
    agree = len({(_geometry(it), it.crop) for it in theirs}) == 1
    return theirs[0] if agree else options


def _geometry(options: DataOptions) -> Geometry:
    return Size(*options.size_px), options.buckets


def place(size: Size, bucket: Size) -> Placement:
    """Resize an image so that it just covers the bucket, and crop the middle."""
    if size.width * bucket.height > bucket.width * size.height:
        resized = Size(max(bucket.width, _round(size.width * bucket.height / size.height)), bucket.height)
    else:
        resized = Size(bucket.width, max(bucket.height, _round(size.height * bucket.width / size.width)))
    return _crop_middle(resized, bucket)


def place_own(size: Size, resolution: Size, step_px: int) -> Placement:
    """Give an image a bucket of its own size, shrunk to the resolution's area if above it (`no_upscale`).

    Sides of the bucket are floored to steps, and the rest is cropped without resizing. An image with a side below one
    step is the exception: it is enlarged to one step.
    """
    is_above = size.width * size.height > resolution.width * resolution.height
    resized = _shrunk(size, resolution, step_px) if is_above else size
    bucket = Size(max(step_px, floor_to(resized.width, step_px)), max(step_px, floor_to(resized.height, step_px)))
    fits = bucket.width <= resized.width and bucket.height <= resized.height
    return _crop_middle(resized, bucket) if fits else place(size, bucket)


def _crop_middle(resized: Size, bucket: Size) -> Placement:
    left, top = (resized.width - bucket.width) // 2, (resized.height - bucket.height) // 2
    return Placement(bucket=bucket, resized=resized, left=left, top=top)


def _shrunk(size: Size, resolution: Size, step_px: int) -> Size:
    """Shrink to the resolution's area: floor one side to steps and derive the other, whichever keeps the ratio better.

    A tie goes to the floored height, as in sd-scripts.
    """
    area, ratio = resolution.width * resolution.height, size.width / size.height
    width = math.sqrt(area * ratio)
    by_width, by_height = floor_to(_round(width), step_px), floor_to(_round(area / width), step_px)
    candidates = []
    if by_height:
        candidates.append(Size(_round(by_height * ratio), by_height))
    if by_width:
        candidates.append(Size(by_width, _round(by_width / ratio)))

    def error(shrunk: Size) -> float:
        width, height = (max(1, floor_to(side, step_px)) for side in shrunk)
        return abs(width / height - ratio)

    return min(candidates, key=error)


def _round(value: float) -> int:
    return int(value + 0.5)
