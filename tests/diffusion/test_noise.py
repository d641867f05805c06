import random

import pytest
import torch
from torch import nn

from sdtune.diffusion.noise import add_offset, pyramid_noise


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    eps, x_0 = torch.randn(2, 3, 4, 8, 12, generator=generator)
    return eps, torch.randn(3, 4, 1, 1, generator=generator), x_0


def strength(value):
    return torch.full((3, 1, 1, 1), value)


def test_an_offset_shifts_each_channel_as_a_whole(tensors):
    eps, z, x_0 = tensors
    difference = add_offset(eps, z, strength(0.1), x_0) - eps
    torch.testing.assert_close(difference, (0.1 * z).expand_as(eps), rtol=1e-4, atol=1e-6)


def test_no_strength_changes_nothing(tensors):
    eps, z, x_0 = tensors
    assert torch.equal(add_offset(eps, z, strength(0.0), x_0), eps)


def test_a_negative_adaptive_strength_stops_at_zero(tensors):
    eps, z, x_0 = tensors
    assert torch.equal(add_offset(eps, z, strength(0.0), x_0, adaptive=-1.0), eps)


def test_the_adaptive_strength_grows_with_the_mean_of_the_latents(tensors):
    eps, z, x_0 = tensors
    shift = add_offset(eps, z, strength(0.05), x_0 + 3, adaptive=0.1) - eps
    expected = (0.05 + 0.1 * (x_0 + 3).mean((2, 3), keepdim=True).abs()) * z
    torch.testing.assert_close(shift, expected.expand_as(shift), rtol=1e-4, atol=1e-6)


def test_an_offset_adds_its_square_to_the_variance():
    generator = torch.Generator().manual_seed(0)
    eps, z = torch.randn(4000, 1, 4, 4, generator=generator), torch.randn(4000, 1, 1, 1, generator=generator)
    noise = add_offset(eps, z, torch.full((4000, 1, 1, 1), 0.5), eps)
    assert float(noise.var()) == pytest.approx(1.25, rel=0.03)


def plain_pyramid(eps, levels, discount, generator):
    """The recipe as written in the blog post, for one sample, with another upsampler."""
    channels, height, width = eps.shape
    total = eps.clone()
    enlarge = nn.Upsample(size=(height, width), mode="bilinear")
    for i in range(levels):
        r = torch.rand(1, generator=generator).item() * 2 + 2
        h, w = max(1, int(height / r**i)), max(1, int(width / r**i))
        total = total + enlarge(torch.randn(1, channels, h, w, generator=generator))[0] * discount**i
        if h == 1 or w == 1:
            break
    return total / total.std()


@pytest.mark.parametrize(("levels", "discount"), [(1, 0.3), (6, 0.3), (10, 0.9)])
def test_pyramid_noise_is_the_recipe(tensors, levels, discount):
    eps = tensors[0][0]
    one, other = (torch.Generator().manual_seed(4) for _ in range(2))
    found, expected = pyramid_noise(eps, levels, discount, one), plain_pyramid(eps, levels, discount, other)
    torch.testing.assert_close(found, expected)
    assert torch.equal(one.get_state(), other.get_state())


def test_pyramid_noise_has_a_standard_deviation_of_one_and_coarse_patches(tensors):
    generator = torch.Generator().manual_seed(1)
    found = pyramid_noise(torch.randn(4, 64, 96, generator=generator), 8, 0.9, generator)
    patches = nn.functional.avg_pool2d(found[None], 8)
    assert found.shape == (4, 64, 96)
    assert float(found.std()) == pytest.approx(1, abs=1e-5)
    assert float(patches.std()) > 2 / 8  # plain noise has 1/8


def test_no_other_generator_is_asked(tensors):
    before = (torch.get_rng_state(), random.getstate())
    pyramid_noise(tensors[0][0], 5, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
