"""Transparency as a weight of the loss: webui's formula, placed as the pixels are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from sdtune.config.data import DataOptions
from sdtune.data.buckets.placing import place
from sdtune.data.caches.latents import LatentItem
from sdtune.data.index.building import build_index
from sdtune.data.pictures.masks import LossMasks, normalise_mask
from sdtune.data.types import Size
from sdtune.testing.images import draw_picture

ALPHA = DataOptions(captions="empty", alpha_weight=True)


@pytest.fixture
def item(tmp_path):
    """Write a picture with an alpha channel, or without, and place it."""

    def item(alpha, size=(96, 64), bucket=(96, 64)):
        picture = draw_picture(size)
        if alpha is not None:
            picture.putalpha(alpha)
        picture.save(tmp_path / "a.png")
        (record,) = build_index(ALPHA.model_copy(update={"path": tmp_path})).images
        return LatentItem(record=record, placement=place(record.size, Size(*bucket)))

    return item


def left_opaque(size=(96, 64), edge=24):
    alpha = Image.new("L", size, 55)
    alpha.paste(255, (0, 0, edge, size[1]))
    return alpha


def mask(item):
    return LossMasks(8, ALPHA).get([item])


def test_only_the_opaque_part_counts_and_the_mean_is_one(item):
    found = mask(item(left_opaque()))
    assert found.shape == (1, 1, 8, 12)
    assert found.dtype == torch.float32
    assert torch.equal(found[..., :3], torch.full((1, 1, 8, 3), 4.0))
    assert not found[..., 3:].any()


@pytest.mark.parametrize("alpha", [None, Image.new("L", (96, 64), 0), Image.new("L", (96, 64), 128)])
def test_an_alpha_that_is_the_same_everywhere_weighs_nothing(item, alpha):
    assert torch.equal(mask(item(alpha)), torch.ones(1, 1, 8, 12))


def test_a_mirrored_picture_has_a_mirrored_mask(item):
    straight = item(left_opaque())
    assert torch.equal(mask(replace(straight, flipped=True)), mask(straight).flip(3))


def test_the_mask_is_cropped_with_the_picture(item):
    found = mask(item(left_opaque((128, 64), edge=32), (128, 64), (64, 64)))
    assert torch.equal(found[0, 0], torch.ones(8, 8))  # the middle 64 columns have one alpha


def test_a_resized_picture_has_a_resized_mask(item):
    found = mask(item(left_opaque((192, 128), edge=96), (192, 128)))
    assert torch.equal(found[0, 0], torch.tensor([2.0] * 6 + [0.0] * 6).expand(8, 12))


def test_a_mask_is_computed_once(item):
    masks, one = LossMasks(8, ALPHA), item(left_opaque())
    first = masks.get([one])
    one.record.path.unlink()
    assert torch.equal(masks.get([one]), first)


def test_the_formula_is_webuis():
    alpha = np.random.default_rng(0).random((5, 7), dtype=np.float32) * 255
    expected = (alpha - alpha.min()) / np.mean(alpha - alpha.min())
    np.testing.assert_allclose(normalise_mask(alpha), expected, rtol=1e-5)
