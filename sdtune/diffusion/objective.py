"""The training objective of denoising diffusion, term by term.

Letters: x_0 clean latents, eps noise, x_t noisy latents, v velocity, alpha_bar the schedule's share of signal variance.
Shapes: latents (B, C, h, w) float32, timesteps (B,) int64 in [0, T).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.diffusion.schedule import NoiseSchedule
    from sdtune.models.base import Prediction


def signal_and_noise(schedule: NoiseSchedule, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Give sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), each (B, 1, 1, 1) float32."""
    alpha_bar = schedule.alpha_bar.to(timesteps.device)[timesteps].view(-1, 1, 1, 1)
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def add_noise(schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_0): sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps (Ho et al. 2020, equation 4)."""
    signal, noise = signal_and_noise(schedule, timesteps)
    return signal * x_0 + noise * eps


def velocity(schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, timesteps: Tensor) -> Tensor:
    """Give v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans and Ho 2022, section 4)."""
    signal, noise = signal_and_noise(schedule, timesteps)
    return signal * eps - noise * x_0


def training_target(
    prediction: Prediction, schedule: NoiseSchedule, x_0: Tensor, eps: Tensor, timesteps: Tensor
) -> Tensor:
    """Give what the model should answer: eps for `epsilon`, v for `v_prediction`, x_0 for `sample`; (B, C, h, w)."""
    match prediction:
        case "epsilon":
            return eps
        case "v_prediction":
            return velocity(schedule, x_0, eps, timesteps)
        case "sample":
            return x_0


def velocity_of_sample(schedule: NoiseSchedule, x_t: Tensor, x_0: Tensor, timesteps: Tensor) -> Tensor:
    """Give v from x_t and x_0: (sqrt(alpha_bar) x_t - x_0) / sqrt(1 - alpha_bar); (B, C, h, w).

    The inverse of x_0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans and Ho 2022, section 4).
    """
    signal, noise = signal_and_noise(schedule, timesteps)
    return (signal * x_t - x_0) / noise
