"""How much a timestep counts: weights of the loss as functions of the signal-to-noise ratio.

Letters: SNR = alpha_bar / (1 - alpha_bar), of the schedule that is trained with; x_0 clean latents, eps noise, v
velocity. One error weighs differently in each form (Salimans and Ho 2022, appendix D):

    |eps - eps'|^2 = SNR |x_0 - x_0'|^2,    |v - v'|^2 = (SNR + 1) |x_0 - x_0'|^2

Functions take the SNR as a tensor of any shape, at least 0, and give a weight of that shape, finite at SNR = 0 too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.diffusion.schedule import NoiseSchedule
    from sdtune.models.base import Prediction

SNR_FLOOR, SNR_CEILING = 1e-3, 1e3  # Stable Diffusion's own schedule goes from 0.0047 to 1175


def signal_to_noise(schedule: NoiseSchedule) -> Tensor:
    """Give the SNR of each timestep, (T,) float64; 0 where there is nothing but noise."""
    alpha_bar = schedule.alpha_bar.double()
    return alpha_bar / (1 - alpha_bar)


def as_noise_error(prediction: Prediction, snr: Tensor) -> Tensor:
    """Give the factor that makes the error of what is predicted that of the noise: 1, SNR / (SNR + 1), or SNR."""
    match prediction:
        case "epsilon":
            return snr.new_ones(snr.shape)
        case "v_prediction":
            return snr / (snr + 1)
        case "sample":
            return snr


def min_snr(prediction: Prediction, snr: Tensor, gamma: float) -> Tensor:
    """Give the min-SNR-gamma weight (Hang et al. 2023, section 3.4).

    eps: min(SNR, gamma) / SNR; v: min(SNR, gamma) / (SNR + 1); x_0: min(SNR, gamma). The first is 1 at SNR = 0, its
    limit; the others are 0 there: in pure noise a v model is not trained.
    """
    return gamma / snr.clamp(min=gamma) * as_noise_error(prediction, snr)


def debiased(prediction: Prediction, snr: Tensor) -> Tensor:
    """Give the weight of debiased estimation (Yu et al. 2024, "Unmasking Bias in Diffusion Model Training").

    eps: 1 / sqrt(SNR), and so sqrt(SNR) for x_0, with the SNR between 0.001 and 1000; the upper bound is that of
    kohya's scripts. v: 1 / (SNR + 1) as there, though the same error in the form of v weighs sqrt(SNR) / (SNR + 1).
    """
    bounded = snr.clamp(SNR_FLOOR, SNR_CEILING)
    match prediction:
        case "epsilon":
            return bounded.rsqrt()
        case "v_prediction":
            return 1 / (snr.clamp(max=SNR_CEILING) + 1)
        case "sample":
            return bounded.sqrt()


def p2(prediction: Prediction, snr: Tensor, gamma: float, k: float = 1.0) -> Tensor:
    """Give the perception-prioritized weight 1 / (k + SNR)^gamma of the error in the noise (Choi et al. 2022)."""
    return as_noise_error(prediction, snr) / (k + snr) ** gamma


def like_noise(snr: Tensor) -> Tensor:
    """Give SNR / (SNR + 1), which weighs a v model's error as that of the noise, SNR up to 1000 (kohya's scripts)."""
    return as_noise_error("v_prediction", snr.clamp(max=SNR_CEILING))


def with_velocity(snr: Tensor, share: float) -> Tensor:
    """Give 1 + share (SNR + 1) / SNR: the error in the noise plus a share of that in v, SNR from 0.001 to 1000.

    kohya's scripts call it `v_pred_like_loss`; the lower bound is ours.
    """
    return 1 + share / as_noise_error("v_prediction", snr.clamp(SNR_FLOOR, SNR_CEILING))
