"""Copies are found however they were changed; different pictures are not."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from sdtune.data.check import fingerprints
from sdtune.data.check.pictures import PictureFacts, examine, near_duplicates
from sdtune.testing.images import draw_picture

PICTURES = [draw_picture((240, 200), seed=seed) for seed in range(12)]


def facts_of(picture, kind="PNG", **extra):
    buffer = BytesIO()
    picture.save(buffer, kind, **extra)
    return examine(buffer.getvalue())


@pytest.fixture(scope="module")
def clean():
    return [facts_of(picture) for picture in PICTURES]


COPIES = {
    "the same": lambda picture: picture,
    "mirrored": ImageOps.mirror,
    "resized": lambda picture: picture.resize((101, 90), Image.Resampling.LANCZOS),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.1),
    "cropped": lambda picture: ImageOps.crop(picture, 10),
    "cropped at a corner": lambda picture: picture.crop((0, 0, 225, 188)),
    "mirrored and cropped": lambda picture: ImageOps.mirror(picture).crop((12, 0, 240, 190)),
}


def test_different_pictures_are_not_alike(clean):
    assert near_duplicates(clean) == []


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES)
def test_a_changed_copy_is_found(clean, change):
    copies = [facts_of(change(picture), "JPEG", quality=60) for picture in PICTURES[:4]]
    assert near_duplicates([*clean, *copies]) == [(n, len(clean) + n) for n in range(4)]


def test_several_copies_are_one_group(clean):
    assert near_duplicates([clean[0], clean[1], clean[0], clean[0]]) == [(0, 2, 3)]


def test_blank_and_unreadable_pictures_are_left_out():
    blank = facts_of(Image.new("RGB", (64, 64), "white"))
    assert near_duplicates([blank, blank, PictureFacts(error="no"), PictureFacts(error="no")]) == []
    assert near_duplicates([]) == []


@pytest.mark.parametrize("picture", PICTURES[:3])
def test_mirrored_hashes_are_those_of_the_mirrored_picture(picture):
    straight, mirrored = (
        fingerprints._unpack([fingerprints.fingerprint(each.convert("L"))])
        for each in (picture, ImageOps.mirror(picture))
    )
    differing = fingerprints._mirrored(straight) ^ mirrored
    assert fingerprints._count_bits(differing)[..., 0].sum() <= 6
    assert fingerprints._count_bits(differing)[..., 1].sum() <= 6  # of 384; sums are rounded


def test_bits_are_counted():
    values = np.random.default_rng(0).integers(0, 1 << 63, 100, dtype=np.uint64)
    assert fingerprints._count_bits(values).tolist() == [int(value).bit_count() for value in values]


def test_many_pictures_are_searched_by_longer_keys(monkeypatch, clean):
    monkeypatch.setattr(fingerprints, "_MANY", 1)
    assert near_duplicates([*clean, *clean[:3]]) == [(n, len(clean) + n) for n in range(3)]
