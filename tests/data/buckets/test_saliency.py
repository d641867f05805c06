from __future__ import annotations

import numpy as np
import pytest

from sdtune.data.buckets.saliency import LOOKED_AT_PX, saliency
from sdtune.testing.images import draw_picture


@pytest.mark.parametrize("size", [(16, 256), (300, 200), (20, 20), (1000, 70)])
def test_weights_are_small_and_never_below_zero(size):
    weights = saliency(np.asarray(draw_picture(size)))
    assert weights.min() == 0
    assert max(weights.shape) <= LOOKED_AT_PX
    assert weights.max() > 0


@pytest.mark.parametrize("color", [0, 77, 255])
def test_a_picture_that_is_alike_everywhere_has_no_weight(color):
    assert not saliency(np.full((90, 120, 3), color, dtype=np.uint8)).any()


def test_what_is_coloured_weighs_more_than_what_is_not():
    picture = np.full((64, 64, 3), 120, dtype=np.uint8)
    picture[20:44:2, 4:20] = 150
    picture[20:44:2, 40:56] = (220, 60, 60)
    weights = saliency(picture)
    assert weights[:, 36:60].sum() > 3 * weights[:, :24].sum()


def test_a_mirrored_picture_has_mirrored_weights():
    picture = np.asarray(draw_picture((64, 48), seed=3))
    assert np.allclose(saliency(picture[:, ::-1]), saliency(picture)[:, ::-1])


def test_the_border_is_no_edge():
    bright = np.full((60, 60, 3), 250, dtype=np.uint8)
    bright[25:35, 25:35] = (20, 20, 200)
    weights = saliency(bright)
    assert not weights[:10].any()
    assert not weights[:, :10].any()
