from dataclasses import fields, replace

import pytest
import torch

from sdtune.config.objective import NoiseOptions
from sdtune.randomness import derive_generator, derive_seed
from sdtune.train.step.draws import Drawer, Draws

SHAPE = (4, 8, 8)


@pytest.fixture
def drawer():
    return Drawer(seed=7, min_timestep=0, max_timestep=1000)


def test_a_sample_draws_the_same_in_any_batch(drawer):
    together = drawer.draw(2, ["a#0", "b#0"], SHAPE)
    alone = drawer.draw(2, ["b#0"], SHAPE)
    assert torch.equal(together.noise[1:], alone.noise)
    assert torch.equal(together.posterior_noise[1:], alone.posterior_noise)
    assert torch.equal(together.timesteps[1:], alone.timesteps)


@pytest.mark.parametrize("other", [(3, "a#0"), (2, "a#1"), (2, "b#0")])
def test_epoch_and_sample_change_the_draw(drawer, other):
    epoch, sample_id = other
    assert not torch.equal(drawer.draw(2, ["a#0"], SHAPE).noise, drawer.draw(epoch, [sample_id], SHAPE).noise)


def test_noise_and_posterior_noise_are_independent(drawer):
    draws = drawer.draw(0, [f"{k}#0" for k in range(64)], SHAPE)
    pair = torch.stack([draws.noise.flatten(), draws.posterior_noise.flatten()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.03


def test_draws_leave_the_global_generator_alone(drawer):
    before = torch.get_rng_state()
    drawer.draw(0, ["a#0"], SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_timesteps_cover_their_range_evenly():
    drawer = Drawer(seed=0, min_timestep=200, max_timestep=300)
    timesteps = drawer.draw(0, [f"{k}#0" for k in range(4000)], (1, 1, 1)).timesteps
    assert (int(timesteps.min()), int(timesteps.max())) == (200, 299)
    counts = torch.bincount(timesteps - 200, minlength=100).float()
    assert float(((counts - 40) ** 2 / 40).sum()) < 150  # chi-square with 99 degrees of freedom: 0.1 % above 148


def test_the_hash_is_the_same_for_ever():
    assert derive_seed(7, "noise", 2, "a#0") == 1198006947804869734


def test_number_and_text_are_different_keys():
    assert derive_seed(7, "noise", 1) != derive_seed(7, "noise", "1")


def test_a_generator_repeats():
    first, second = (torch.randn(5, generator=derive_generator(1, "x", "k")) for _ in range(2))
    assert torch.equal(first, second)


SHAPED = NoiseOptions(
    offset=0.1, offset_random=True, pyramid_levels=4, perturbation=0.2, perturbation_random=True, offset_adaptive=0.1
)


@pytest.mark.parametrize("field", [field.name for field in fields(Draws)])
def test_a_sample_draws_the_same_shaped_noise_in_any_batch(field):
    drawer = Drawer(seed=7, min_timestep=0, max_timestep=1000, noise=SHAPED)
    together = drawer.draw(2, ["a#0", "b#0", "c#0"], SHAPE)
    alone = drawer.draw(2, ["b#0"], SHAPE)
    assert torch.equal(getattr(together, field)[1:2], getattr(alone, field))


def test_shaping_the_noise_leaves_the_other_draws_alone(drawer):
    plain = drawer.draw(2, ["a#0"], SHAPE)
    shaped = replace(drawer, noise=replace_options(SHAPED, pyramid_levels=0)).draw(2, ["a#0"], SHAPE)
    assert torch.equal(plain.noise, shaped.noise)
    assert torch.equal(plain.posterior_noise, shaped.posterior_noise)
    assert torch.equal(plain.timesteps, shaped.timesteps)
    assert (plain.offset, plain.offset_strength, plain.perturbation) == (None, None, None)


def test_random_strengths_are_even_and_each_samples_own(drawer):
    options = replace_options(SHAPED, pyramid_levels=0)
    shaped = replace(drawer, noise=options).draw(0, [f"{k}#0" for k in range(500)], (1, 1, 1))
    strengths = shaped.offset_strength.flatten()
    assert (len(strengths.unique()), bool((strengths < 0.1).all())) == (500, True)
    assert float(strengths.mean()) == pytest.approx(0.05, abs=0.005)
    assert float(shaped.perturbation.std()) == pytest.approx(0.2 / 3**0.5, rel=0.15)


def test_a_fixed_strength_is_every_samples(drawer):
    shaped = replace(drawer, noise=NoiseOptions(offset=0.25, perturbation=0.5)).draw(0, ["a#0", "b#0"], SHAPE)
    assert torch.equal(shaped.offset_strength, torch.full((2, 1, 1, 1), 0.25))
    assert shaped.perturbation.shape == (2, *SHAPE)


def replace_options(options, **changes):
    return options.model_copy(update=changes)
