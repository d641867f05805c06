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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 20, 37, 100])
def test_every_step_count_has_falling_timesteps_in_range(name, steps):
    timesteps = make_scheduler(name, NoiseSchedule.scaled_linear(), "epsilon", steps).timesteps
    assert len(timesteps) == steps
    assert (timesteps.diff() <= 0).all()
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
