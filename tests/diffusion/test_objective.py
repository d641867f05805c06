import pytest
import torch
from diffusers import DDPMScheduler

from sdtune.diffusion.losses import sample_losses
from sdtune.diffusion.objective import add_noise, signal_and_noise, training_target, velocity, velocity_of_sample
from sdtune.diffusion.schedule import NoiseSchedule


@pytest.fixture
def schedule():
    return NoiseSchedule.scaled_linear()


@pytest.fixture
def reference():
    return DDPMScheduler(1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.fixture
def draws():
    generator = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    return x_0, eps, torch.tensor([0, 1, 250, 500, 998, 999])


def test_the_schedule_is_that_of_stable_diffusion(schedule, reference):
    torch.testing.assert_close(schedule.alpha_bar, reference.alphas_cumprod, rtol=1e-6, atol=0)


def test_noise_is_added_as_diffusers_adds_it(schedule, reference, draws):
    x_0, eps, t = draws
    torch.testing.assert_close(add_noise(schedule, x_0, eps, t), reference.add_noise(x_0, eps, t))


def test_velocity_is_that_of_diffusers(schedule, reference, draws):
    x_0, eps, t = draws
    torch.testing.assert_close(velocity(schedule, x_0, eps, t), reference.get_velocity(x_0, eps, t))


def test_signal_and_noise_keep_the_variance(schedule, draws):
    signal, noise = signal_and_noise(schedule, draws[2])
    torch.testing.assert_close(signal**2 + noise**2, torch.ones_like(signal))


def test_velocity_and_noisy_latents_give_back_both_parts(schedule, draws):
    x_0, eps, t = draws
    x_t, v = add_noise(schedule, x_0, eps, t), velocity(schedule, x_0, eps, t)
    signal, noise = signal_and_noise(schedule, t)
    torch.testing.assert_close(signal * x_t - noise * v, x_0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(noise * x_t + signal * v, eps, rtol=1e-4, atol=1e-5)


def test_an_epsilon_model_should_answer_the_noise(schedule, draws):
    x_0, eps, t = draws
    assert training_target("epsilon", schedule, x_0, eps, t) is eps


def test_a_sample_model_should_answer_the_picture(schedule, draws):
    x_0, eps, t = draws
    assert training_target("sample", schedule, x_0, eps, t) is x_0


def test_velocity_follows_from_the_picture(schedule, draws):
    x_0, eps, t = draws
    found = velocity_of_sample(schedule, add_noise(schedule, x_0, eps, t), x_0, t)
    torch.testing.assert_close(found, velocity(schedule, x_0, eps, t), rtol=1e-4, atol=1e-4)


def test_squared_error_stays_per_sample_and_in_float32(draws):
    x_0, eps, _ = draws
    error = sample_losses(x_0.bfloat16(), eps)
    expected = torch.stack([(a.bfloat16().float() - b).square().mean() for a, b in zip(x_0, eps, strict=True)])
    assert error.dtype == torch.float32
    torch.testing.assert_close(error, expected)


def test_a_mask_weights_the_error_over_the_picture(draws):
    x_0, eps, _ = draws
    mask = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(sample_losses(x_0, eps, mask=mask), ((x_0 - eps).square() * mask).mean((1, 2, 3)))
