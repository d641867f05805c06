import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from sdtune.diffusion.objective import add_noise, signal_and_noise, training_target, velocity
from sdtune.diffusion.schedule import NoiseSchedule


@pytest.fixture
def trained():
    return NoiseSchedule.scaled_linear()


@pytest.fixture
def rescaled(trained):
    return trained.rescaled_to_zero_snr()


@pytest.fixture
def draws():
    generator = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(1000, 1, 2, 2, generator=generator) for _ in range(2))
    return x_0, eps, torch.arange(1000)


def lin_algorithm_1(betas):
    """The algorithm as printed in the paper, in float64."""
    sqrt_alpha_bar = (1 - betas.double()).cumprod(0).sqrt()
    first, last = sqrt_alpha_bar[0].clone(), sqrt_alpha_bar[-1].clone()
    sqrt_alpha_bar = (sqrt_alpha_bar - last) * first / (first - last)
    alpha_bar = sqrt_alpha_bar**2
    alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return 1 - alphas


def test_rescaling_ends_at_exactly_zero_and_begins_where_it_began(trained, rescaled):
    assert rescaled.alpha_bar[-1] == 0
    assert rescaled.alpha_bar[0] == trained.alpha_bar[0]
    assert (rescaled.alpha_bar.diff() < 0).all()


def test_rescaling_is_the_papers_algorithm(rescaled):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = (1 - lin_algorithm_1(betas)).cumprod(0)
    torch.testing.assert_close(rescaled.alpha_bar.double(), expected, rtol=1e-5, atol=1e-8)


def test_rescaling_is_that_of_diffusers(rescaled):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = (1 - rescale_zero_terminal_snr(betas)).cumprod(0)
    torch.testing.assert_close(rescaled.alpha_bar, expected, rtol=1e-3, atol=1e-7)  # theirs is computed in float32


def test_rescaling_twice_changes_nothing(rescaled):
    assert torch.equal(rescaled.rescaled_to_zero_snr().alpha_bar, rescaled.alpha_bar)


def test_only_a_rescaled_schedule_ends_in_pure_noise(trained, rescaled):
    assert (trained.has_zero_snr, rescaled.has_zero_snr) == (False, True)


def test_pure_noise_holds_nothing_of_the_picture(rescaled, draws):
    x_0, eps, t = draws
    assert torch.equal(add_noise(rescaled, x_0, eps, t)[-1], eps[-1])
    assert torch.equal(velocity(rescaled, x_0, eps, t)[-1], -x_0[-1])


def test_velocity_gives_back_picture_and_noise_at_every_timestep(rescaled, draws):
    x_0, eps, t = draws
    x_t, v = add_noise(rescaled, x_0, eps, t), training_target("v_prediction", rescaled, x_0, eps, t)
    signal, noise = signal_and_noise(rescaled, t)
    torch.testing.assert_close(signal * x_t - noise * v, x_0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noise * x_t + signal * v, eps, rtol=1e-4, atol=1e-5)
