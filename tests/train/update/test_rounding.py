"""Stochastic rounding to bfloat16: right in the mean, near in each case, and a function of its keys."""

import math

import pytest
import torch

from sdtune.train.update.rounding import draw_low_bits, round_stochastically

RANDOM = torch.Generator().manual_seed(3)
NUMBERS = torch.cat([torch.randn(5_000, generator=RANDOM) * scale for scale in (1e-30, 1e-3, 1.0, 1e30)])


def rounded(values, *keys):
    return round_stochastically(values, draw_low_bits(values, 0, *keys))


def neighbours(values):
    """Give the nearest bfloat16 numbers towards zero and away from it, computed by integers of Python."""
    bits = values.view(torch.int32) & -65536
    return bits.view(torch.float32), (bits + 65536).view(torch.float32)


def test_each_number_goes_to_one_of_its_neighbours():
    inner, outer = neighbours(NUMBERS)
    found = rounded(NUMBERS, "a").float()
    assert bool(((found == inner) | (found == outer)).all())


@pytest.mark.parametrize("value", [1.001, -3.3, 1e-20, 0.999, 2.0**-133])
def test_the_mean_is_the_number(value):
    number = torch.tensor(value)
    draws = rounded(number.repeat(200_000), "mean", str(value)).double()
    inner, outer = (float(side) for side in neighbours(number.view(1)))
    chance = (float(number) - inner) / (outer - inner)
    deviation = abs(outer - inner) * math.sqrt(chance * (1 - chance) / 200_000)
    assert abs(float(draws.mean()) - float(number)) <= 4.5 * deviation + 1e-45


def test_the_chance_is_exact_over_all_draws():
    every = torch.arange(65_536, dtype=torch.int32)
    value = torch.tensor(1 + 2**-7 * 0.3, dtype=torch.float32)
    found = round_stochastically(value.repeat(65_536), every)
    assert float(found.double().mean()) == float(value)


def test_numbers_that_bfloat16_has_stay():
    own = NUMBERS.bfloat16()
    assert torch.equal(rounded(own.float(), "b"), own)


def test_infinity_and_nan_stay_and_nothing_becomes_infinite():
    odd = torch.tensor([math.inf, -math.inf, math.nan, torch.finfo(torch.float32).max, -0.0])
    odd[2:3].view(torch.int32).fill_(0x7FFFFFFF)  # the NaN whose bits would carry over into the sign
    found = round_stochastically(odd, torch.full((5,), 65_535, dtype=torch.int32))
    assert found[:2].tolist() == [math.inf, -math.inf]
    assert found[2].isnan()
    assert found[3] == torch.finfo(torch.bfloat16).max
    assert math.copysign(1, float(found[4])) == -1


def test_values_that_lie_apart_in_memory_are_rounded_in_their_places():
    table = NUMBERS[:20].view(4, 5).t()
    assert torch.equal(rounded(table, "c"), rounded(table.contiguous(), "c"))


def test_draws_are_a_function_of_seed_and_keys():
    like = torch.empty(1000)
    assert torch.equal(draw_low_bits(like, 1, 2, "unet.x"), draw_low_bits(like, 1, 2, "unet.x"))
    others = [draw_low_bits(like, 1, 3, "unet.x"), draw_low_bits(like, 1, 2, "unet.y"), draw_low_bits(like, 2, 2, "x")]
    assert not any(torch.equal(draw_low_bits(like, 1, 2, "unet.x"), other) for other in others)


def test_draws_use_their_whole_range_evenly():
    counts = torch.bincount(draw_low_bits(torch.empty(160_000), 0, "even") // 4096, minlength=16)
    assert len(counts) == 16
    assert float(((counts - 10_000).double() ** 2 / 10_000).sum()) < 37.7  # chi squared of 15 degrees, 1 in 1000
