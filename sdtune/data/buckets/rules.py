"""Which buckets there are, and which of them an image goes to; pure functions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.types import Size
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sdtune.config.buckets import BucketOptions
    from sdtune.config.data import DataOptions

SMALL_RESOLUTION_PX = 256
SMALL_STEP_PX = 8
DEFAULT_GROUPS = 5


def choose_buckets(sizes: Sequence[Size], buckets: Sequence[Size], *, enlarges: bool = True) -> list[Size]:
    """Choose the bucket of each image: its own size if there is one, else the one of the nearest ratio.

    Ratios are compared by their logarithms (sd-scripts subtracts them), so that a picture turned by 90 degrees goes
    to the turned bucket.

    Args:
        sizes: Sizes of images.
        buckets: What there is to choose from, sorted.
        enlarges: Of several buckets of one ratio the largest is taken; if not, the largest that is no larger than the
            image, or the smallest there is.
    """
    width, height = np.array(sizes, dtype=np.float64).reshape(-1, 2).T
    ratio = np.log(width) - np.log(height)
    nearest, best = np.full(len(sizes), np.inf), np.full(len(sizes), np.inf)
    choice = np.zeros(len(sizes), dtype=np.intp)
    for number, bucket in enumerate(buckets):
        # Rounded: a ratio and its inverse must tie to the last bit.
        distance = np.round(np.abs(ratio - math.log(bucket.width / bucket.height)), 12)
        distance[(width == bucket.width) & (height == bucket.height)] = -1
        area = bucket.width * bucket.height
        rank = np.where((width * height < area) & (not enlarges), area, -area)
        better = (distance < nearest) | ((distance == nearest) & (rank < best))
        nearest[better], best[better], choice[better] = distance[better], rank[better], number
    return [buckets[number] for number in choice.tolist()]


def list_buckets(options: DataOptions, shapes: Sequence[Size]) -> tuple[Size, ...]:
    """List the buckets that options stand for, sorted.

    Args:
        options: As they hold for a folder, with a resolution.
        shapes: Sizes of the images that `ratios` is to find groups in, at least one.

    Raises:
        ConfigError: `max_px` below the resolution's longer side, or more groups than images.
    """
    buckets = options.buckets
    if buckets.rule == "fixed":
        return tuple(sorted({parse_size(size) for size in buckets.sizes}))
    base = Size(*options.size_px)
    if buckets.rule == "ratios" and buckets.target_area is not None:
        base = Size(math.isqrt(buckets.target_area), math.isqrt(buckets.target_area))
    min_px, max_px, step_px = bucket_limits(base, buckets)
    if buckets.rule == "area":
        return bucket_sizes(base, min_px=min_px, max_px=max_px, step_px=step_px)
    centres = group_ratios(shapes, _count_groups(buckets, len(shapes)))
    area = target_area(options)
    return tuple(sorted({size_of_ratio(c, area, min_px=min_px, max_px=max_px, step_px=step_px) for c in centres}))


def target_area(options: DataOptions) -> int:
    """Give the pixels that a picture is meant to have: the resolution's, or what `ratios` is told."""
    return options.buckets.target_area or math.prod(options.size_px)


def parse_size(text: str) -> Size:
    """Read a side, or WIDTHxHEIGHT."""
    sides = [int(side) for side in text.split("x")]
    return Size(sides[0], sides[-1])


def bucket_sizes(resolution: Size, *, min_px: int, max_px: int, step_px: int) -> tuple[Size, ...]:
    """List the buckets of rule `area`, sorted: sides in steps, area at most the resolution's, and the largest square.

    The rule is the one of kohya's sd-scripts, so that data sets fall into the buckets their owners know.

    Args:
        resolution: Only its area counts.
        min_px: Shortest side.
        max_px: Longest side.
        step_px: Sides are multiples of it.
    """
    area = resolution.width * resolution.height
    side = floor_to(math.isqrt(area), step_px)
    sizes = {Size(side, side)}
    for width in range(min_px, max_px + 1, step_px):
        height = min(max_px, floor_to(area // width, step_px))
        if height >= min_px:
            sizes |= {Size(width, height), Size(height, width)}
    return tuple(sorted(sizes))


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
    return max(step_px, floor_to(min_px, step_px)), -floor_to(-max_px, step_px), step_px


def group_ratios(sizes: Sequence[Size], count: int) -> list[float]:
    """Part images into groups of like shape: k-means on the logarithm of width / height, solved exactly.

    In one dimension the best grouping is found by dynamic programming (Wang and Song 2011, Ckmeans.1d.dp), so nothing
    is drawn and nothing hangs on a start. Logarithms that agree to three decimals count as one shape.

    Args:
        sizes: Sizes of images, at least one.
        count: Groups wanted; of fewer different shapes each is a group.

    Returns:
        The mean logarithm of each group, ascending.
    """
    width, height = np.array(sizes, dtype=np.float64).reshape(-1, 2).T
    shapes, times = np.unique(np.round(np.log(width / height), 3), return_counts=True)
    if len(shapes) <= count:
        return [float(shape) for shape in shapes]
    bounds = _best_bounds(shapes.astype(np.float64), times, count)
    return [float(np.average(shapes[low:high], weights=times[low:high])) for low, high in pairwise(bounds)]


def size_of_ratio(log_ratio: float, area: int, *, min_px: int, max_px: int, step_px: int) -> Size:
    """Give the size of about an area and a ratio whose sides are multiples of a step, within limits."""

    def clamp(side: float) -> float:
        return min(max(side, min_px), max_px)

    width = clamp(math.sqrt(area * math.exp(log_ratio)))
    height = clamp(area / width)
    width = clamp(area / height)

    def distance(size: Size) -> tuple[float, int]:
        return math.log(size.width / width) ** 2 + math.log(size.height / height) ** 2, math.prod(size)

    return min((Size(w, h) for w in _neighbours(width, step_px) for h in _neighbours(height, step_px)), key=distance)


def floor_to(value: int, step: int) -> int:
    """Round down to a multiple of a step."""
    return value // step * step


def _neighbours(side: float, step: int) -> set[int]:
    return {max(step, floor_to(math.floor(side), step)), -floor_to(-math.ceil(side), step)}


def _count_groups(options: BucketOptions, images: int) -> int:
    if options.num_bucket is not None and options.num_bucket > images:
        raise ConfigError(
            f"data.buckets.num_bucket={options.num_bucket} is more than the number of images, {images}",
            hint=f"set it to {images} or less",
        )
    return min(options.num_bucket or DEFAULT_GROUPS, images)


def _best_bounds(points: NDArray[np.float64], weights: NDArray[np.int64], count: int) -> list[int]:
    """Cut sorted points into `count` runs with the least sum of weighted squares about their means.

    Returns:
        Where runs begin, and the end.
    """
    shifted = points - np.average(points, weights=weights)
    mass, moment, square = (np.concatenate([[0.0], np.cumsum(weights * shifted**power)]) for power in range(3))

    def spread(low: NDArray[np.intp], high: int) -> NDArray[np.float64]:
        inside = mass[high] - mass[low]
        around: NDArray[np.float64] = square[high] - square[low] - (moment[high] - moment[low]) ** 2 / inside
        return around

    number = len(points)
    everything = np.arange(number + 1)
    costs = np.array([0.0, *(spread(everything[:1], high)[0] for high in range(1, number + 1))])
    cuts = []
    for groups in range(2, count + 1):
        next_costs, cut = np.full(number + 1, np.inf), np.zeros(number + 1, dtype=np.intp)
        for high in range(groups, number + 1):
            first = max(groups - 1, cut[high - 1])  # the best cut never moves back
            low = everything[first:high]
            total = costs[low] + spread(low, high)
            best = int(np.argmin(total))
            next_costs[high], cut[high] = total[best], first + best
        costs = next_costs
        cuts.append(cut)
    bounds = [number]
    for cut in reversed(cuts):
        bounds.append(int(cut[bounds[-1]]))
    return [0, *reversed(bounds)]
