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
    """Give what the model should answer: eps for `epsilon`, v for `v_prediction`; (B, C, h, w)."""
    return eps if prediction == "epsilon" else velocity(schedule, x_0, eps, timesteps)


def squared_error(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give each sample's mean squared error over C, h, w, weighted by a mask (B, 1, h, w): (B,) float32."""
    error = (prediction.float() - target.float()).square()
    return (error if mask is None else error * mask).flatten(1).mean(1)
