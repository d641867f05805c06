import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from sdtune.diffusion import weighting
from sdtune.diffusion.schedule import NoiseSchedule

PREDICTIONS = ["epsilon", "v_prediction", "sample"]


@pytest.fixture
def snr():
    return weighting.signal_to_noise(NoiseSchedule.scaled_linear())


@pytest.fixture
def with_zero():
    return weighting.signal_to_noise(NoiseSchedule.scaled_linear().rescaled_to_zero_snr())


def test_the_ratio_is_that_of_diffusers(snr):
    scheduler = DDPMScheduler(1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    expected = compute_snr(scheduler, torch.arange(1000)).double()
    torch.testing.assert_close(snr, expected, rtol=2e-4, atol=0)  # theirs is computed in float32


def test_the_ratio_falls_and_ends_at_zero_where_the_schedule_does(snr, with_zero):
    assert (snr.diff() < 0).all()
    assert (with_zero.diff() < 0).all()
    assert (snr[-1] > 0.004, with_zero[-1] == 0) == (True, True)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_an_error_becomes_that_of_the_noise(snr, prediction):
    """Change the answer of a model by d, and compare the noise it stands for before and after."""
    t = torch.tensor([3, 500, 990])
    signal, noise = (snr[t] / (1 + snr[t])).sqrt(), (1 / (1 + snr[t])).sqrt()
    change_of_noise = {"epsilon": 1.0, "v_prediction": signal, "sample": -signal / noise}[prediction]
    torch.testing.assert_close(
        weighting.as_noise_error(prediction, snr[t]), torch.ones(3, dtype=torch.float64) * change_of_noise**2
    )


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_is_the_papers_formula(snr, gamma):
    least = snr.clamp(max=gamma)
    torch.testing.assert_close(weighting.min_snr("epsilon", snr, gamma), least / snr)
    torch.testing.assert_close(weighting.min_snr("v_prediction", snr, gamma), least / (snr + 1))
    torch.testing.assert_close(weighting.min_snr("sample", snr, gamma), least)


def test_min_snr_with_a_huge_gamma_weighs_nothing(snr):
    assert torch.equal(weighting.min_snr("epsilon", snr, 1e6), torch.ones_like(snr))


def test_debiased_estimation_is_kohyas_formula(snr):
    torch.testing.assert_close(weighting.debiased("epsilon", snr), 1 / snr.clamp(max=1000).sqrt())
    torch.testing.assert_close(weighting.debiased("v_prediction", snr), 1 / (snr.clamp(max=1000) + 1))


def test_debiased_errors_of_noise_and_picture_are_one(snr):
    inner = snr[snr < 1000]
    of_noise = weighting.debiased("epsilon", inner) * weighting.as_noise_error("sample", inner)
    torch.testing.assert_close(of_noise, weighting.debiased("sample", inner))


def test_p2_with_gamma_1_and_k_1_weighs_noise_as_a_v_loss_does_pure_noise(snr):
    torch.testing.assert_close(weighting.p2("epsilon", snr, 1.0, 1.0), 1 - snr / (snr + 1))


def test_p2_weighs_the_same_error_alike_in_every_form(snr):
    base = weighting.p2("epsilon", snr, 0.5, 2.0)
    ratios = [weighting.p2(form, snr, 0.5, 2.0) / weighting.as_noise_error(form, snr) for form in PREDICTIONS]
    torch.testing.assert_close(torch.stack(ratios), base.expand(3, -1))


def test_like_noise_undoes_with_velocity(snr):
    inner = snr[snr < 1000]
    product = (weighting.with_velocity(inner, 1.0) - 1) * weighting.like_noise(inner)
    torch.testing.assert_close(product, torch.ones_like(inner))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_every_weight_is_finite_in_pure_noise(with_zero, prediction):
    weights = [
        weighting.min_snr(prediction, with_zero, 5.0),
        weighting.debiased(prediction, with_zero),
        weighting.p2(prediction, with_zero, 1.0),
        weighting.like_noise(with_zero),
        weighting.with_velocity(with_zero, 1.0),
    ]
    assert torch.stack(weights).isfinite().all()
    assert (torch.stack(weights) >= 0).all()


def test_min_snr_of_noise_has_its_limit_in_pure_noise(with_zero):
    assert weighting.min_snr("epsilon", with_zero, 5.0)[-1] == 1
