from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sdtune.config.buckets import BucketOptions
from sdtune.config.cache import CacheOptions
from sdtune.config.data import DataOptions
from sdtune.data.buckets.crops import best_offset, crop_anywhere
from sdtune.data.buckets.placing import place, place_images
from sdtune.data.buckets.size_numbers import describe_size
from sdtune.data.index.building import build_index
from sdtune.data.types import Size

SQUARE = BucketOptions(enabled=False)


def draw_subject(box, size, seed=0):
    """Draw a patterned disc in a quiet, slightly noisy picture."""
    draws = np.random.default_rng(seed)
    ground = np.clip(150 + draws.normal(0, 3, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    picture = Image.fromarray(ground)
    pen = ImageDraw.Draw(picture)
    pen.ellipse(box, fill=(200, 60, 40))
    left, top, right, bottom = box
    for share in (0.3, 0.5, 0.7):
        y = round(top + share * (bottom - top))
        pen.line((left + 12, y, right - 12, y), fill=(30, 30, 60), width=3)
    return picture


def placed(tmp_path, picture, name="a.png", **options):
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    picture.save(folder / name)
    cache = CacheOptions(dir=tmp_path / "cache")
    chosen = DataOptions(path=folder, captions="empty", resolution="64", buckets=SQUARE, cache=cache, **options)
    images = build_index(chosen).images
    return images[0], place_images(images, chosen)[0]


def window(record, placement):
    """Give what is kept, in px of the file: left, top, right, bottom."""
    scale = record.size.width / placement.resized.width
    left, top = placement.left * scale, placement.top * scale
    return left, top, left + placement.bucket.width * scale, top + placement.bucket.height * scale


@pytest.mark.parametrize("left", [0, 40, 170, 300, 420])
def test_a_subject_far_off_the_middle_of_a_wide_picture_stays_inside(tmp_path, left):
    box = (left, 30, left + 90, 120)
    record, placement = placed(tmp_path, draw_subject(box, (512, 160)), crop="focal")
    kept = window(record, placement)
    assert kept[0] <= box[0] + 2
    assert box[2] - 2 <= kept[2]


@pytest.mark.parametrize("top", [0, 200, 330])
def test_so_it_does_in_a_tall_picture(tmp_path, top):
    box = (30, top, 120, top + 90)
    record, placement = placed(tmp_path, draw_subject(box, (160, 440)), crop="focal")
    kept = window(record, placement)
    assert kept[1] <= box[1] + 2
    assert box[3] - 2 <= kept[3]


def test_the_middle_would_lose_it(tmp_path):
    record, placement = placed(tmp_path, draw_subject((420, 30, 510, 120), (512, 160)))
    assert window(record, placement)[2] < 420


def test_a_picture_without_anything_in_it_is_cut_in_the_middle(tmp_path):
    record, placement = placed(tmp_path, Image.new("RGB", (512, 160), "gray"), crop="focal")
    assert placement == place(record.size, Size(64, 64))


@pytest.mark.parametrize("center", [60, 256, 450])
def test_a_face_that_the_name_tells_comes_to_the_middle(tmp_path, center):
    picture = draw_subject((200, 30, 290, 120), (512, 160))
    record, placement = placed(tmp_path, picture, name=f"x_{center}_70_40_50.png", crop="face")
    left, _, right, _ = window(record, placement)
    assert left <= center - 20
    assert center + 20 <= right
    assert (left + right) / 2 == pytest.approx(min(max(center, 80), 432), abs=4)


def test_without_a_face_what_draws_the_eye_counts_and_that_is_told(tmp_path, caplog):
    _, by_face = placed(tmp_path, draw_subject((400, 30, 490, 120), (512, 160)), crop="face")
    _, by_eye = placed(tmp_path, draw_subject((400, 30, 490, 120), (512, 160)), crop="focal")
    assert by_face == by_eye
    assert caplog.messages == [
        "no face is known in 1 of 1 images, they are cut around what draws the eye; first: a.png; "
        "data.face_model finds faces"
    ]


def test_an_image_that_fits_its_bucket_is_not_looked_at(tmp_path):
    placed(tmp_path, draw_subject((10, 10, 50, 50), (80, 80)), crop="focal")
    assert not (tmp_path / "cache").exists()


def test_crops_anywhere_hang_on_seed_epoch_and_sample_alone():
    placement = place(Size(300, 64), Size(64, 64))
    assert crop_anywhere(placement, 1, 2, "a#0") == crop_anywhere(placement, 1, 2, "a#0")
    others = [(2, 2, "a#0"), (1, 3, "a#0"), (1, 2, "a#1")]
    assert all(crop_anywhere(placement, *other) != crop_anywhere(placement, 1, 2, "a#0") for other in others)


def test_crops_anywhere_come_to_every_place_and_never_beyond():
    placement = place(Size(70, 64), Size(64, 64))
    lefts = {crop_anywhere(placement, 1, 0, f"a#{n}").left for n in range(100)}
    assert lefts == set(range(7))
    assert {crop_anywhere(placement, 1, 0, f"a#{n}").top for n in range(100)} == {0}


@pytest.mark.parametrize(
    ("weights", "left"),
    [
        ([1] * 10, 30),
        ([0] * 10, 30),
        ([1, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 60),
        ([0, 0, 0, 0, 0, 0, 1, 0, 0, 0], 45),
    ],
)
def test_the_window_keeps_most_and_centres_it(weights, left):
    assert best_offset(np.array(weights, dtype=float), 100, 40) == pytest.approx(left, abs=1)


def test_no_window_keeps_more():
    weights = np.random.default_rng(3).random(64)
    per_px = np.repeat(weights, 5)
    chosen = best_offset(weights, 320, 100)
    sums = [per_px[left : left + 100].sum() for left in range(221)]
    assert sums[chosen] >= max(sums) - 0.02 * per_px.sum() - 1e-9


@pytest.mark.parametrize(("flipped", "left"), [(False, 7), (True, 150 - 64 - 7)])
def test_sdxl_is_told_of_the_crop_that_is_made(flipped, left):
    placement = replace(place(Size(300, 128), Size(64, 64)), left=7)
    assert describe_size(Size(300, 128), placement, flipped=flipped) == (128, 300, 0, left, 64, 64)


@pytest.mark.parametrize("flipped", [False, True])
def test_kohyas_numbers_do_not_hang_on_the_crop(flipped):
    centre = place(Size(300, 128), Size(64, 64))
    numbers = {
        describe_size(Size(300, 128), replace(centre, left=left), flipped=flipped, rule="kohya") for left in (0, 7, 86)
    }
    assert numbers == {(128, 300, 18, 0, 64, 64)}
