import pytest
import torch

from sdtune.diffusion.schedule import NoiseSchedule
from sdtune.sampling.schedulers import make_scheduler

NAMES = ["dpmpp_2m_karras", "euler_a", "ddim"]


@pytest.mark.parametrize("name", NAMES)
def test_schedule_of_the_model_is_kept(name):
    schedule = NoiseSchedule.scaled_linear()
    kept = make_scheduler(name, schedule, "epsilon", 20).alphas_cumprod
    torch.testing.assert_close(kept, schedule.alpha_bar, rtol=1e-5, atol=0)


@pytest.fixture(params=[False, True], ids=["as trained", "zero snr"])
def schedule(request):
    trained = NoiseSchedule.scaled_linear()
    return trained.rescaled_to_zero_snr() if request.param else trained


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_of_zero_snr_is_kept(name):
    schedule = NoiseSchedule.scaled_linear().rescaled_to_zero_snr()
    kept = make_scheduler(name, schedule, "v_prediction", 20).alphas_cumprod
    torch.testing.assert_close(kept, schedule.alpha_bar, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [2, 7, 20])
def test_zero_snr_begins_in_pure_noise(name, steps):
    schedule = NoiseSchedule.scaled_linear().rescaled_to_zero_snr()
    assert make_scheduler(name, schedule, "v_prediction", steps).timesteps[0].round() == 999


def draw_known_picture(name, schedule, steps, x_0):
    """Sample with a perfect v model of one picture: v = (alpha x_t - x_0) / sigma, since x_0 = alpha x_t - sigma v."""
    scheduler = make_scheduler(name, schedule, "v_prediction", steps)
    generator = torch.Generator().manual_seed(0)
    noise = {"generator": generator} if name == "euler_a" else {}
    x_t = torch.randn(x_0.shape, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        alpha_bar = schedule.alpha_bar[t.round().long()]
        seen = scheduler.scale_model_input(x_t, t)
        v = (alpha_bar.sqrt() * seen - x_0) / (1 - alpha_bar).sqrt()
        x_t = scheduler.step(v, t, x_t, **noise).prev_sample
    return x_t


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_zero_snr_draws_exactly_what_a_perfect_model_knows(name, steps):
    schedule = NoiseSchedule.scaled_linear().rescaled_to_zero_snr()
    x_0 = torch.linspace(-3, 3, 4 * 8 * 8).view(1, 4, 8, 8)
    drawn = draw_known_picture(name, schedule, steps, x_0)
    torch.testing.assert_close(drawn, x_0, rtol=0, atol=3e-3)  # alpha_bar is 2**-24 instead of 0 at the first step


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 20, 37, 100])
def test_every_step_count_has_falling_timesteps_in_range(name, steps, schedule):
    timesteps = make_scheduler(name, schedule, "v_prediction", steps).timesteps
    assert len(timesteps) == steps
    assert (timesteps.diff() <= 0).all()
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
