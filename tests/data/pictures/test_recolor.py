"""Small changes of colour at some visits."""

import math

import pytest
import torch

from sdtune.config.data import DataOptions
from sdtune.config.subsets import SubsetOptions
from sdtune.data.pictures.pixels import check_cacheable
from sdtune.data.pictures.recolor import MOST_GAMMA, MOST_HUE_DEGREES, ColorShift, draw_shift, recolor
from sdtune.errors import ConfigError

GRAY = torch.linspace(-1, 1, 64).reshape(1, 8, 8).expand(3, 8, 8)
NOISE = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4


def luma(pixels):
    return torch.tensor([0.299, 0.587, 0.114]) @ pixels.flatten(1)


def test_a_third_of_all_visits_is_changed_within_the_limits():
    shifts = [draw_shift(1, epoch, f"a.png#{visit}") for epoch in range(30) for visit in range(100)]
    drawn = [shift for shift in shifts if shift]
    assert len(drawn) / 3000 == pytest.approx(1 / 3, abs=0.03)
    assert sum(shift.gamma == 1 for shift in drawn) / len(drawn) == pytest.approx(0.5, abs=0.05)
    assert max(abs(shift.hue_degrees) for shift in drawn) <= MOST_HUE_DEGREES
    assert max(abs(shift.gamma - 1) for shift in drawn) <= MOST_GAMMA


def test_a_visit_draws_the_same_change_again():
    assert [draw_shift(5, 2, f"a#{n}") for n in range(20)] == [draw_shift(5, 2, f"a#{n}") for n in range(20)]


def test_a_turned_hue_leaves_gray_and_brightness_alone():
    torch.testing.assert_close(recolor(GRAY, ColorShift(hue_degrees=8)), GRAY, rtol=0, atol=2e-3)
    torch.testing.assert_close(luma(recolor(NOISE, ColorShift(hue_degrees=8))), luma(NOISE), rtol=0, atol=2e-3)


def test_turning_back_gives_the_picture():
    turned = recolor(NOISE, ColorShift(hue_degrees=8))
    assert (turned - NOISE).abs().max() > 0.02
    torch.testing.assert_close(recolor(turned, ColorShift(hue_degrees=-8)), NOISE, rtol=0, atol=1e-5)


def test_red_is_turned_towards_yellow_or_magenta_and_not_as_if_it_were_blue():
    red = torch.tensor([0.5, -0.5, -0.5]).reshape(3, 1, 1)
    one, other = (recolor(red, ColorShift(hue_degrees=degrees)).flatten() for degrees in (8, -8))
    assert one.argmax() == other.argmax() == 0
    assert (one[1] > one[2]) != (other[1] > other[2])


def test_gamma_is_a_power_of_values_from_0_to_1():
    middle = recolor(torch.zeros(3, 1, 1), ColorShift(gamma=1.05))
    assert float(middle[0]) == pytest.approx(2 * 0.5**1.05 - 1)
    assert math.isfinite(float(recolor(-torch.ones(3, 1, 1), ColorShift(gamma=0.95)).sum()))


@pytest.mark.parametrize("own", [{"color": True}, {"crop": "random"}])
def test_what_is_drawn_anew_needs_latents_that_are_not_cached(own, tmp_path):
    for options in (DataOptions(**own), DataOptions(subsets=[SubsetOptions(path=tmp_path, **own)])):
        with pytest.raises(ConfigError, match=r"set data.cache.latents=off"):
            check_cacheable(options)
        check_cacheable(options.model_copy(update={"cache": options.cache.model_copy(update={"latents": "off"})}))
    check_cacheable(DataOptions())
