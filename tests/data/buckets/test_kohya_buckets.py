"""Buckets against a second implementation of the rules of kohya's sd-scripts, written from their description.

Known differences, each with a test that it is the only one:

- ratios are compared by their logarithms, so that a turned picture goes to the turned bucket; of buckets of one ratio
  the largest is taken, not the first;
- with `no_upscale` a side below one step makes a bucket of one step, not of 0 px;
- a shortest side that is not below the resolution's is lowered to half of it.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import pytest

from sdtune.config.buckets import BucketOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place_sizes
from sdtune.data.buckets.rules import list_buckets
from sdtune.data.types import Size

SETS = 500
IMAGES_IN_A_SET = 6


@dataclass(frozen=True)
class Case:
    """A resolution with limits, and sizes of images."""

    width: int
    height: int
    shortest: int
    longest: int
    step: int
    images: tuple[tuple[int, int], ...]

    @property
    def area(self):
        return self.width * self.height

    def options(self, *, no_upscale=False):
        limits = {"min_px": self.shortest, "max_px": self.longest, "step_px": self.step}
        buckets = BucketOptions(**limits, no_upscale=no_upscale)
        return DataOptions(resolution=f"{self.width}x{self.height}", buckets=buckets)


def draw_case(number):
    draws = random.Random(number)
    width, height = (8 * draws.randint(32, 192) for _ in range(2))
    images = tuple((draws.randint(64, 4096), draws.randint(64, 4096)) for _ in range(IMAGES_IN_A_SET))
    return Case(
        width=width,
        height=height,
        shortest=draws.randint(64, min(width, height) - 1),
        longest=draws.randint(max(width, height), 3072),
        step=draws.choice([32, 64, 128]),
        images=images,
    )


CASES = [draw_case(number) for number in range(SETS)]


@cache
def kohya_sizes(case):
    step, low, high = case.step, case.shortest - case.shortest % case.step, case.longest + -case.longest % case.step
    low = max(low, step)  # theirs would begin with 0 px
    square = math.floor(math.sqrt(case.area) / step) * step
    found = [(square, square)]
    for side in range(low, high + step, step):
        if side > high:
            break
        other = min(high, (case.area // side) // step * step)
        if other >= low:
            found.extend([(side, other), (other, side)])
    return sorted(set(found))


def by_difference(image, bucket):
    return abs(image[0] / image[1] - bucket[0] / bucket[1])


def by_logarithm(image, bucket):
    ratio = (image[0] * bucket[1]) / (image[1] * bucket[0])
    return round(max(ratio, 1 / ratio), 12)  # grows with the distance of the logarithms


def nearest(image, sizes, distance):
    if image in sizes:
        return image
    return min(sizes, key=lambda size: distance(image, size))  # the first of equals


def half_up(value):
    return math.floor(value + Fraction(1, 2))


def covered(image, bucket):
    """Size after resizing, and the crop's left and top."""
    if image[0] * bucket[1] > image[1] * bucket[0]:
        resized = half_up(Fraction(image[0] * bucket[1], image[1])), bucket[1]
    else:
        resized = bucket[0], half_up(Fraction(image[1] * bucket[0], image[0]))
    return resized, (resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2


def kohya_without_upscale(image, case):
    """Give bucket, size after resizing and crop; None where theirs has a side of 0 px."""

    def to_step(value):
        whole = int(value + 0.5)
        return whole - whole % case.step

    resized = image
    if image[0] * image[1] > case.area:
        ratio = image[0] / image[1]
        ideal_width = math.sqrt(case.area * ratio)
        from_width, from_height = to_step(ideal_width), to_step(case.area / ideal_width)
        if not from_width or not from_height or not to_step(from_width / ratio):
            return None
        miss_by_width = abs(from_width / to_step(from_width / ratio) - ratio)
        miss_by_height = abs(to_step(from_height * ratio) / from_height - ratio)
        if miss_by_width < miss_by_height:
            resized = from_width, int(from_width / ratio + 0.5)
        else:
            resized = int(from_height * ratio + 0.5), from_height
    bucket = tuple(side - side % case.step for side in resized)
    if 0 in bucket:
        return None
    return bucket, resized, (resized[0] - bucket[0]) // 2, (resized[1] - bucket[1]) // 2


def ours(case, **options):
    placed = place_sizes([Size(*image) for image in case.images], case.options(**options), [])
    return [(it.bucket, it.resized, it.left, it.top) for it in (placed[Size(*image)] for image in case.images)]


def theirs(case, distance, *, largest_first=False):
    sizes = kohya_sizes(case)
    ordered = sorted(sizes, key=lambda size: -size[0] * size[1]) if largest_first else sizes
    buckets = [nearest(image, ordered, distance) for image in case.images]
    return [(bucket, *covered(image, bucket)) for image, bucket in zip(case.images, buckets, strict=True)]


def test_lists_of_buckets_are_equal():
    assert [list(list_buckets(case.options(), [])) for case in CASES] == [kohya_sizes(case) for case in CASES]


def test_by_logarithms_all_placements_are_equal():
    assert [ours(case) for case in CASES] == [theirs(case, by_logarithm, largest_first=True) for case in CASES]


def test_where_kohya_chooses_otherwise_the_ratio_lies_between_two_means_or_is_the_same():
    pairs = [
        (Fraction(*image), Fraction(*mine[0]), Fraction(*other[0]))
        for case in CASES
        for image, mine, other in zip(case.images, ours(case), theirs(case, by_difference), strict=True)
        if mine[0] != other[0]
    ]
    # between their geometric mean, where we change over, and their arithmetic mean, where kohya does
    explained = [a < r < b and b - r >= r - a and r * r >= a * b for r, b, a in pairs if a != b]
    assert all(explained)
    assert 20 < len(explained) < SETS * IMAGES_IN_A_SET / 10


def test_without_upscale_all_placements_are_equal_but_for_buckets_of_no_size():
    pairs = [
        (mine, kohya_without_upscale(image, case))
        for case in CASES
        for image, mine in zip(case.images, ours(case, no_upscale=True), strict=True)
    ]
    sound = [(mine, other) for mine, other in pairs if other is not None]
    assert all(mine == other for mine, other in sound)
    assert len(sound) > 0.9 * len(pairs)
    assert all(min(mine[0]) >= 32 for mine, other in pairs if other is None)


@pytest.mark.parametrize(("side", "lowered"), [(256, 128), (320, 256)])
def test_a_shortest_side_as_long_as_the_resolution_is_lowered(side, lowered):
    options = DataOptions(resolution=str(side), buckets=BucketOptions(min_px=256))
    assert min(min(size) for size in list_buckets(options, [])) == lowered
