import pytest
import torch

from sdtune.diffusion.losses import elementwise, huber_table, sample_losses
from sdtune.diffusion.schedule import NoiseSchedule

SMALL, LARGE = torch.tensor([1e-3, -2e-3]), torch.tensor([50.0, -80.0])
C = torch.tensor(0.1)


@pytest.fixture
def schedule():
    return NoiseSchedule.scaled_linear()


def test_huber_is_a_square_for_small_errors_and_straight_for_large_ones():
    torch.testing.assert_close(elementwise("huber", SMALL, C), SMALL**2, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(elementwise("huber", LARGE, C), 2 * C * LARGE.abs(), rtol=3e-3, atol=0)


def test_smooth_l1_is_straight_for_large_errors_whatever_c():
    torch.testing.assert_close(elementwise("smooth_l1", LARGE, C), 2 * LARGE.abs(), rtol=3e-3, atol=0)


def test_huber_is_c_times_smooth_l1():
    d = torch.linspace(-3, 3, 61)
    torch.testing.assert_close(elementwise("huber", d, C), C * elementwise("smooth_l1", d, C))


@pytest.mark.parametrize("kind", ["l2", "l1", "huber", "smooth_l1"])
def test_no_error_costs_nothing_and_has_no_gradient(kind):
    d = torch.zeros(4, requires_grad=True)
    loss = elementwise(kind, d, C)
    (gradient,) = torch.autograd.grad(loss.sum(), d)
    assert (loss.sum() == 0, bool((gradient == 0).all())) == (True, True)


@pytest.mark.parametrize("form", ["snr", "exponential"])
def test_c_falls_from_about_one_to_its_least(schedule, form):
    table = huber_table(schedule, form, 0.1)
    assert (table.diff() < 0).all()
    assert float(table[0]) > 0.9
    assert 0.1 <= float(table[-1]) < 0.11


def test_the_forms_are_those_of_the_papers(schedule):
    sigma = ((1 - schedule.alpha_bar.double()) / schedule.alpha_bar.double()).sqrt()
    torch.testing.assert_close(huber_table(schedule, "snr", 0.1).double(), 0.9 / (1 + sigma) ** 2 + 0.1)
    decay = torch.exp(torch.arange(1000, dtype=torch.float64) * torch.log(torch.tensor(0.1, dtype=torch.float64)) / 1e3)
    torch.testing.assert_close(huber_table(schedule, "exponential", 0.1).double(), decay)
    assert torch.equal(huber_table(schedule, "constant", 0.25), torch.full((1000,), 0.25))


@pytest.mark.parametrize("form", ["snr", "exponential", "constant"])
def test_the_scale_counts_in_every_form(schedule, form):
    torch.testing.assert_close(huber_table(schedule, form, 0.1, 3.0), 3 * huber_table(schedule, form, 0.1))


def test_in_pure_noise_c_is_its_least(schedule):
    assert huber_table(schedule.rescaled_to_zero_snr(), "snr", 0.1)[-1] == pytest.approx(0.1)


def test_each_sample_has_its_own_c():
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 3, 4, 5, 6, generator=generator)
    c = torch.tensor([0.1, 0.5, 2.0])
    alone = [sample_losses(prediction[k : k + 1], target[k : k + 1], kind="huber", c=c[k : k + 1])[0] for k in range(3)]
    torch.testing.assert_close(sample_losses(prediction, target, kind="huber", c=c), torch.stack(alone))
