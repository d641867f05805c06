"""Aspect-ratio buckets: which sizes there are, and how each image is brought to one of them; pure functions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.types import Placement, Size
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdtune.config.buckets import BucketOptions
    from sdtune.config.data import DataOptions
    from sdtune.data.types import ImageRecord

SMALL_RESOLUTION_PX = 256
SMALL_STEP_PX = 8
LOW_AREA_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketReport:
    """What the buckets cost.

    Attributes:
        visits: Bucket to visits in an epoch, by size.
        worst_crop: Name of the image that loses the largest share of its pixels, and the share in [0, 1).
        worst_enlargement: Name of the image that is enlarged most, and the factor per side; 1 is its own size.
        low_area: Buckets below 0.8 of the resolution's area.
    """

    visits: Mapping[Size, int]
    worst_crop: tuple[str, float]
    worst_enlargement: tuple[str, float]
    low_area: tuple[Size, ...]


def bucket_sizes(resolution: Size, *, min_px: int, max_px: int, step_px: int) -> tuple[Size, ...]:
    """List the predefined buckets, sorted: sides in steps, area at most the resolution's, plus the largest square.

    The rule is the one of kohya's sd-scripts, so that data sets fall into the buckets their owners know.

    Args:
        resolution: Only its area counts.
        min_px: Shortest side.
        max_px: Longest side.
        step_px: Sides are multiples of it.
    """
    area = resolution.width * resolution.height
    side = _floor(math.isqrt(area), step_px)
    sizes = {Size(side, side)}
    for width in range(min_px, max_px + 1, step_px):
        height = min(max_px, _floor(area // width, step_px))
        if height >= min_px:
            sizes |= {Size(width, height), Size(height, width)}
    return tuple(sorted(sizes))


def choose_bucket(size: Size, buckets: Sequence[Size]) -> Size:
    """Choose the bucket of an image: its own size if there is one, else the nearest ratio, then the largest area.

    Ratios are compared by their logarithms (sd-scripts subtracts them), so that a picture turned by 90 degrees goes
    to the turned bucket.
    """
    if size in buckets:
        return size

    def distance(bucket: Size) -> tuple[float, int]:
        # Rounded: a ratio and its inverse must tie to the last bit.
        ratio = math.log(size.width * bucket.height) - math.log(size.height * bucket.width)
        return round(abs(ratio), 12), -bucket.width * bucket.height

    return min(buckets, key=distance)


def place_own(size: Size, resolution: Size, step_px: int) -> Placement:
    """Give an image a bucket of its own size, shrunk to the resolution's area if above it (`no_upscale`).

    Sides of the bucket are floored to steps, and the rest is cropped without resizing. An image with a side below one
    step is the exception: it is enlarged to one step.
    """
    is_above = size.width * size.height > resolution.width * resolution.height
    resized = _shrunk(size, resolution, step_px) if is_above else size
    bucket = Size(max(step_px, _floor(resized.width, step_px)), max(step_px, _floor(resized.height, step_px)))
    fits = bucket.width <= resized.width and bucket.height <= resized.height
    return _crop_middle(resized, bucket) if fits else place(size, bucket)


def place(size: Size, bucket: Size) -> Placement:
    """Resize an image so that it just covers the bucket, and crop the middle."""
    if size.width * bucket.height > bucket.width * size.height:
        resized = Size(max(bucket.width, _round(size.width * bucket.height / size.height)), bucket.height)
    else:
        resized = Size(bucket.width, max(bucket.height, _round(size.height * bucket.width / size.width)))
    return _crop_middle(resized, bucket)


def place_images(images: Sequence[ImageRecord], options: DataOptions) -> tuple[Placement, ...]:
    """Place every image, in order.

    Raises:
        ConfigError: `data.buckets.max_px` below the resolution's longer side, or below `min_px`.
    """
    resolution = Size(*options.size_px)
    if not options.buckets.enabled:
        return tuple(place(record.size, resolution) for record in images)
    min_px, max_px, step_px = bucket_limits(resolution, options.buckets)
    if options.buckets.no_upscale:
        return tuple(place_own(record.size, resolution, step_px) for record in images)
    buckets = bucket_sizes(resolution, min_px=min_px, max_px=max_px, step_px=step_px)
    return tuple(place(record.size, choose_bucket(record.size, buckets)) for record in images)


def bucket_limits(resolution: Size, options: BucketOptions) -> tuple[int, int, int]:
    """Settle shortest side, longest side and step for a resolution, all in px.

    Below 256 px the step is 8; a shortest side that leaves no room below the resolution becomes half of it.

    Raises:
        ConfigError: The longest side is below the resolution's longer side.
    """
    short, long = sorted(resolution)
    step_px = SMALL_STEP_PX if short < SMALL_RESOLUTION_PX else options.step_px
    min_px = options.min_px if options.min_px < short else short // 2
    max_px = 2 * long if options.max_px is None else options.max_px
    if max_px < long:
        raise ConfigError(
            f"data.buckets.max_px={max_px} is below the longer side of data.resolution={resolution}",
            hint=f"set it to {long} or more",
        )
    return max(step_px, _floor(min_px, step_px)), -_floor(-max_px, step_px), step_px


def report_buckets(
    images: Sequence[ImageRecord], placements: Sequence[Placement], options: DataOptions
) -> BucketReport:
    """Sum up what the placements do to the images (at least one)."""
    visits: Counter[Size] = Counter()
    for record, placement in zip(images, placements, strict=True):
        visits[placement.bucket] += round(record.subset.repeats)
    pairs = list(zip(images, placements, strict=True))
    crop = max(pairs, key=lambda pair: crop_share(pair[1]))
    enlarged = max(pairs, key=lambda pair: enlargement(*pair))
    target = LOW_AREA_SHARE * math.prod(options.size_px)
    return BucketReport(
        visits=dict(sorted(visits.items())),
        worst_crop=(crop[0].name, crop_share(crop[1])),
        worst_enlargement=(enlarged[0].name, enlargement(*enlarged)),
        low_area=tuple(bucket for bucket in sorted(visits) if bucket.width * bucket.height < target),
    )


def crop_share(placement: Placement) -> float:
    """Share of the resized image that is cut away, in [0, 1)."""
    return 1 - math.prod(placement.bucket) / math.prod(placement.resized)


def enlargement(record: ImageRecord, placement: Placement) -> float:
    """Factor by which the sides grow; below 1 the image shrinks."""
    return math.sqrt(math.prod(placement.resized) / math.prod(record.size))


def _crop_middle(resized: Size, bucket: Size) -> Placement:
    left, top = (resized.width - bucket.width) // 2, (resized.height - bucket.height) // 2
    return Placement(bucket=bucket, resized=resized, left=left, top=top)


def _shrunk(size: Size, resolution: Size, step_px: int) -> Size:
    """Shrink to the resolution's area: floor one side to steps and derive the other, whichever keeps the ratio better.

    A tie goes to the floored height, as in sd-scripts.
    """
    area, ratio = resolution.width * resolution.height, size.width / size.height
    width = math.sqrt(area * ratio)
    by_width, by_height = _floor(_round(width), step_px), _floor(_round(area / width), step_px)
    candidates = []
    if by_height:
        candidates.append(Size(_round(by_height * ratio), by_height))
    if by_width:
        candidates.append(Size(by_width, _round(by_width / ratio)))

    def error(shrunk: Size) -> float:
        width, height = (max(1, _floor(side, step_px)) for side in shrunk)
        return abs(width / height - ratio)

    return min(candidates, key=error)


def _floor(value: int, step: int) -> int:
    return value // step * step


def _round(value: float) -> int:
    return int(value + 0.5)
