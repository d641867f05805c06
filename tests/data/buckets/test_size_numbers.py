from __future__ import annotations

import pytest

from sdtune.data.buckets.size_numbers import describe_size
from sdtune.data.types import Placement, Size

BUCKET = Size(128, 64)


def place(resized, left=0, top=0):
    return Placement(bucket=BUCKET, resized=resized, left=left, top=top)


def test_an_image_that_fits_is_not_cropped():
    assert describe_size(Size(256, 128), place(BUCKET), flipped=False) == (128, 256, 0, 0, 64, 128)


@pytest.mark.parametrize(("flipped", "left"), [(False, 5), (True, 17)])
def test_the_crop_is_the_one_that_is_made_and_mirrored_with_the_picture(flipped, left):
    placement = place(Size(150, 64), left=5)
    assert describe_size(Size(300, 128), placement, flipped=flipped) == (128, 300, 0, left, 64, 128)


def test_cutting_a_mirrored_image_is_mirroring_a_cut_one():
    # what is left of the crop in the mirrored picture is what was right of it before: 150 = 5 + 128 + 17
    resized, left = Size(150, 64), 5
    mirrored = place(resized, left=resized.width - BUCKET.width - left)
    once = describe_size(Size(300, 128), place(resized, left=left), flipped=True)
    assert once == describe_size(Size(300, 128), mirrored, flipped=False)


@pytest.mark.parametrize(
    ("original", "top", "left", "mirrored"),
    [
        (Size(100, 100), 0, 32, 32),
        (Size(101, 64), 0, 13, 14),
        (Size(400, 100), 16, 0, 0),
        (Size(300, 128), 4, 0, 0),
        (Size(256, 128), 0, 0, 0),
    ],
)
def test_kohyas_rule_puts_the_image_inside_the_bucket(original, top, left, mirrored):
    for flipped, found in ((False, left), (True, mirrored)):
        numbers = describe_size(original, place(Size(150, 64), left=3), flipped=flipped, rule="kohya")
        assert numbers == (original.height, original.width, top, found, 64, 128)
