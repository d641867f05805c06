import math
from pathlib import Path

import pytest

from sdtune.config.buckets import BucketOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place, place_images, place_own
from sdtune.data.buckets.report import crop_share
from sdtune.data.buckets.rules import bucket_limits, bucket_sizes, choose_buckets
from sdtune.data.index.building import build_index
from sdtune.data.types import ImageRecord, Size, Subset
from sdtune.errors import ConfigError
from sdtune.testing.images import write_images

SIZES_512 = bucket_sizes(Size(512, 512), min_px=256, max_px=1024, step_px=64)
SHAPES = [(w, h) for w in (17, 64, 100, 333, 512, 777, 1500, 4000) for h in (17, 65, 256, 500, 1024, 3000)]


@pytest.mark.parametrize(
    ("side", "max_px", "count"), [(512, 1024, 17), (768, 1024, 19), (1024, 1024, 25), (1024, 2048, 41)]
)
def test_number_of_buckets_is_the_known_one(side, max_px, count):
    assert len(bucket_sizes(Size(side, side), min_px=256, max_px=max_px, step_px=64)) == count


def test_buckets_keep_area_steps_and_limits():
    assert all(width * height <= 512 * 512 for width, height in SIZES_512)
    assert all(side % 64 == 0 and 256 <= side <= 1024 for size in SIZES_512 for side in size)


def test_every_bucket_is_there_both_ways():
    assert {Size(height, width) for width, height in SIZES_512} == set(SIZES_512)


def test_own_size_comes_first():
    assert choose_buckets([Size(256, 832)], SIZES_512)[0] == Size(256, 832)


@pytest.mark.parametrize("shape", SHAPES)
def test_turned_image_goes_to_the_turned_bucket(shape):
    width, height = choose_buckets([Size(*shape)], SIZES_512)[0]
    assert choose_buckets([Size(*shape[::-1])], SIZES_512)[0] == (height, width)


@pytest.mark.parametrize("shape", SHAPES)
def test_placement_covers_the_bucket_and_crops_the_middle(shape):
    bucket = choose_buckets([Size(*shape)], SIZES_512)[0]
    placed = place(Size(*shape), bucket)
    spare = (placed.resized.width - bucket.width, placed.resized.height - bucket.height)
    assert min(spare) == 0
    assert (placed.left, placed.top) == (spare[0] // 2, spare[1] // 2)


def test_photograph_of_three_by_two_loses_little():
    placed = place(Size(3000, 2000), choose_buckets([Size(3000, 2000)], SIZES_512)[0])
    assert placed.bucket == Size(640, 384)
    assert placed.resized == Size(640, 427)
    assert crop_share(placed) == pytest.approx(1 - 384 / 427)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_upscale_keeps_small_images_as_they_are(shape):
    placed = place_own(Size(*shape), Size(512, 512), 64)
    assert all(side >= 64 and side % 64 == 0 for side in placed.bucket)
    is_small = math.prod(shape) <= 512 * 512 and min(shape) >= 64
    assert (placed.resized == shape) or not is_small
    assert placed.left >= 0
    assert placed.top >= 0


@pytest.mark.parametrize("shape", [(1500, 1500), (4000, 3000), (777, 1024)])
def test_no_upscale_shrinks_large_images_to_the_area(shape):
    bucket = place_own(Size(*shape), Size(512, 512), 64).bucket
    assert 0.7 * 512 * 512 < math.prod(bucket) <= 512 * 512


@pytest.mark.parametrize(
    ("resolution", "limits"),
    [((512, 512), (256, 1024, 64)), ((256, 256), (128, 512, 64)), ((64, 64), (32, 128, 8)), ((8, 8), (8, 16, 8))],
)
def test_limits_fit_the_resolution(resolution, limits):
    assert bucket_limits(Size(*resolution), BucketOptions()) == limits


def test_limits_are_rounded_to_steps():
    assert bucket_limits(Size(512, 512), BucketOptions(min_px=300, max_px=1000)) == (256, 1024, 64)


def test_longest_side_below_the_resolution_is_an_error():
    with pytest.raises(ConfigError, match="set it to 768 or more"):
        bucket_limits(Size(512, 768), BucketOptions(max_px=700))


@pytest.fixture
def index(tmp_path):
    write_images(tmp_path / "3_dog", 3, sizes=[(64, 64), (200, 100), (20, 30)])
    return build_index(DataOptions(path=tmp_path))


def test_images_are_placed_at_a_small_resolution(index):
    placements = place_images(index.images, DataOptions(resolution="64"))
    assert [placement.bucket for placement in placements] == [(64, 64), (88, 40), (48, 80)]


def test_one_size_without_buckets(index):
    placements = place_images(index.images, DataOptions(resolution="64x48", buckets=BucketOptions(enabled=False)))
    assert {placement.bucket for placement in placements} == {(64, 48)}


def test_no_upscale_option_is_honoured(index):
    placements = place_images(index.images, DataOptions(resolution="64", buckets=BucketOptions(no_upscale=True)))
    assert placements[2].bucket == (16, 24)


def subset(name, *, pairs_with=None, **options):
    return Subset(
        name=name,
        path=Path(name),
        repeats=1,
        class_text="",
        weight=1,
        caption_source="txt",
        is_regularization=pairs_with is not None,
        pairs_with=pairs_with or (),
        options=DataOptions(**options),
    )


def image(own, size, name="a.png"):
    return ImageRecord(path=Path(name), name=f"{own.name}/{name}", size=Size(*size), digest="", caption="", subset=own)


def test_each_folder_has_its_own_resolution_and_buckets():
    small = subset("small", resolution="64")
    large = subset("large", resolution="128", buckets=BucketOptions(enabled=False))
    plain = subset("plain")
    images = [image(own, (300, 150)) for own in (small, large, plain)]
    placed = place_images(images, DataOptions(resolution="256", buckets=BucketOptions(step_px=64)))
    assert [it.bucket for it in placed] == [(88, 40), (128, 128), (320, 192)]


def test_one_folder_at_two_resolutions_is_placed_twice():
    images = [image(subset(name, resolution=name), (200, 200)) for name in ("64", "128")]
    assert [it.bucket for it in place_images(images, DataOptions(resolution="512"))] == [(64, 64), (128, 128)]


def test_images_of_one_size_share_a_placement():
    own = subset("a", resolution="64")
    first, second = place_images([image(own, (300, 150), name) for name in ("a", "b")], DataOptions())
    assert first is second


@pytest.mark.parametrize(
    ("pairs", "side"), [(("a",), 64), (("b",), 128), (("a", "c"), 64), (("a", "b"), 256), ((), 256), (("gone",), 256)]
)
def test_regularization_goes_to_the_buckets_of_the_folders_it_belongs_to_if_they_agree(pairs, side):
    training = [subset("a", resolution="64"), subset("b", resolution="128"), subset("c", resolution="64")]
    own = subset("reg", pairs_with=pairs, resolution="96")
    placed = place_images([image(it, (500, 500)) for it in (*training, own)], DataOptions(resolution="256"))
    assert placed[-1].bucket == (side, side)


RATIOS = {"resolution": "512", "buckets": BucketOptions(rule="ratios", num_bucket=2)}


def test_regularization_follows_the_groups_of_the_training_images():
    own, other = subset("a", **RATIOS), subset("reg", pairs_with=("a",))
    training = [image(own, size) for size in ((500, 500), (1000, 500))]
    alone = place_images(training, DataOptions())
    both = place_images([*training, *[image(other, (300, 900))] * 9], DataOptions())
    assert both[:2] == alone
    assert both[-1].bucket == (512, 512)


def test_held_out_images_follow_the_groups_of_the_training_images():
    own = subset("a", **RATIOS)
    training = [image(own, size) for size in ((500, 500), (1000, 500))]
    (placed,) = place_images([image(own, (300, 900))], DataOptions(), shapes_from=training)
    assert placed.bucket == (512, 512)


def test_groups_are_found_over_all_folders_of_one_kind():
    images = [image(subset(name, **RATIOS), size) for name, size in (("a", (500, 500)), ("b", (1000, 500)))]
    assert [it.bucket for it in place_images(images, DataOptions())] == [(512, 512), (704, 384)]


def test_fixed_buckets_do_not_enlarge_without_need():
    own = subset("a", resolution="512", buckets=BucketOptions(rule="fixed", sizes=("512", "768")))
    images = [image(own, size) for size in ((700, 700), (800, 800), (100, 100))]
    assert [it.bucket.width for it in place_images(images, DataOptions())] == [512, 768, 512]
