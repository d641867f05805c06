from __future__ import annotations

import math
import random
from itertools import combinations, pairwise

import numpy as np
import pytest

from sdtune.config.buckets import BucketOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets.rules import choose_buckets, group_ratios, list_buckets, size_of_ratio
from sdtune.data.types import Size
from sdtune.errors import ConfigError

SQUARES = [Size(512, 512), Size(640, 448), Size(768, 768), Size(1024, 1024)]


def draw_sizes(count, seed=1):
    draws = random.Random(seed)
    return [Size(draws.randint(200, 2000), draws.randint(200, 2000)) for _ in range(count)]


def ratios(*sizes, resolution="512", **options):
    chosen = DataOptions(resolution=resolution, buckets=BucketOptions(rule="ratios", **options))
    return list_buckets(chosen, [Size(*size) for size in sizes])


def spread(points):
    return float(np.sum((np.array(points) - np.mean(points)) ** 2))


def least_spread(points, count):
    """Try every way to cut sorted points into runs."""
    cuts = [(0, *inner, len(points)) for inner in combinations(range(1, len(points)), count - 1)]
    return min(sum(spread(points[low:high]) for low, high in pairwise(cut)) for cut in cuts)


@pytest.mark.parametrize(("seed", "count"), [(seed, count) for seed in range(8) for count in (2, 3, 5)])
def test_groups_of_like_shape_are_the_best_there_are(seed, count):
    sizes = draw_sizes(11, seed)
    points = sorted(round(math.log(size.width / size.height), 3) for size in sizes)
    centres = np.array(group_ratios(sizes, count))
    found = sum(min((point - centres) ** 2) for point in points)
    assert found == pytest.approx(least_spread(points, count))


def test_images_count_as_often_as_they_are_there():
    # one group for the many squares: the few others share what is left
    sizes = [Size(512, 512)] * 90 + [Size(1000, 500)] * 5 + [Size(1100, 500)] * 5
    assert group_ratios(sizes, 2) == pytest.approx([0, (0.693 + 0.788) / 2], abs=1e-3)


def test_fewer_shapes_than_groups_are_a_group_each():
    assert group_ratios([Size(100, 100), Size(200, 100), Size(50, 50)], 5) == pytest.approx([0, 0.693])


def test_groups_do_not_hang_on_the_order_of_images():
    sizes = draw_sizes(40)
    assert group_ratios(sizes, 4) == group_ratios(sizes[::-1], 4)


def test_buckets_of_groups_have_the_target_area_and_fit_the_images():
    shapes = [(1500, 1000)] * 3 + [(1000, 1500)] * 3 + [(900, 900)] * 3
    assert ratios(*shapes, num_bucket=3, target_area=512 * 768) == ((512, 768), (640, 640), (768, 512))


@pytest.mark.parametrize("step_px", [8, 64])
def test_sides_of_groups_are_steps_near_the_area(step_px):
    found = ratios(*draw_sizes(60), num_bucket=8, step_px=step_px, target_area=393216)
    assert all(side % step_px == 0 and 256 <= side <= 2 * 627 + 64 for size in found for side in size)
    assert all(abs(math.log(math.prod(size) / 393216)) < 2 * step_px / 256 for size in found)


def test_a_shape_beyond_the_limits_comes_as_near_as_they_allow():
    assert size_of_ratio(math.log(16), 512 * 512, min_px=256, max_px=1024, step_px=64) == (1024, 256)


def test_small_resolutions_have_small_steps():
    assert ratios((300, 200), resolution="64", num_bucket=1) == ((80, 56),)


def test_more_groups_than_images_is_an_error_that_names_both():
    with pytest.raises(ConfigError, match="num_bucket=5 is more than the number of images, 4; set it to 4 or less"):
        ratios(*draw_sizes(4), num_bucket=5)


def test_without_a_number_there_are_five_groups_at_most():
    assert len(ratios(*draw_sizes(200), step_px=8)) == 5
    assert len(ratios((100, 100), (100, 200))) == 2


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((100, 100), (512, 512)),
        ((700, 700), (512, 512)),
        ((800, 800), (768, 768)),
        ((5000, 5000), (1024, 1024)),
        ((1024, 1024), (1024, 1024)),
        ((900, 630), (640, 448)),
        ((500, 700), (512, 512)),
    ],
)
def test_fixed_sizes_take_the_nearest_ratio_and_do_not_enlarge_without_need(size, bucket):
    assert choose_buckets([Size(*size)], sorted(SQUARES), enlarges=False) == [bucket]


def test_fixed_sizes_are_read_and_sorted():
    chosen = DataOptions(resolution="512", buckets=BucketOptions(rule="fixed", sizes=("640x448", 512, "448x640")))
    assert list_buckets(chosen, []) == ((448, 640), (512, 512), (640, 448))


def test_of_equal_ratios_the_largest_is_usual():
    assert choose_buckets([Size(100, 100)], sorted(SQUARES)) == [(1024, 1024)]


def test_wide_pictures_of_sdxl_keep_their_area():
    sizes = list_buckets(DataOptions(resolution="1024"), [])
    assert choose_buckets([Size(3000, 2000), Size(1920, 1080)], sizes) == [(1216, 832), (1344, 768)]
