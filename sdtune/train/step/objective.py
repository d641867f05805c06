"""The objective of a run: options turned into tables over the timesteps, once, before the first step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.diffusion import timesteps as shares
from sdtune.diffusion import weighting
from sdtune.diffusion.losses import huber_table, sample_losses
from sdtune.errors import ConfigError, Problems

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.config.objective import LossOptions, LossType, TimestepOptions
    from sdtune.config.schema import CoreOptions
    from sdtune.diffusion.schedule import NoiseSchedule
    from sdtune.models.base import DiffusionModel, Prediction

BENT = ("huber", "smooth_l1")  # losses that have a c


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What counts as an error, ready on the device.

    Attributes:
        kind: Loss of an element.
        weights: (T,) float32 weight of each timestep, or None where all count alike.
        huber_c: (T,) float32 for `huber` and `smooth_l1`, else None.
        adaptive_offset: Noise offset for each unit of a channel's mean latent.
    """

    kind: LossType = "l2"
    weights: Tensor | None = None
    huber_c: Tensor | None = None
    adaptive_offset: float = 0.0

    def losses(self, prediction: Tensor, target: Tensor, timesteps: Tensor, mask: Tensor | None = None) -> Tensor:
        """Give each sample's loss over C, h, w, times its timestep's weight: (B,) float32."""
        c = None if self.huber_c is None else self.huber_c[timesteps]
        losses = sample_losses(prediction, target, kind=self.kind, c=c, mask=mask)
        return losses if self.weights is None else losses * self.weights[timesteps]


def make_objective(options: CoreOptions, model: DiffusionModel) -> Objective:
    """Compute the tables of a run's objective, on the model's device."""
    loss, schedule, device = options.loss, model.schedule, model.source.device
    weights = timestep_weights(loss, model.prediction, schedule)
    bent = huber_table(schedule, loss.huber_schedule, loss.huber_c, loss.huber_scale) if loss.type in BENT else None
    return Objective(
        kind=loss.type,
        weights=None if weights is None else weights.to(device),
        huber_c=None if bent is None else bent.to(device),
        adaptive_offset=options.noise.offset_adaptive,
    )


def timestep_weights(loss: LossOptions, prediction: Prediction, schedule: NoiseSchedule) -> Tensor | None:
    """Give the weight of each timestep, (T,) float32: the product of all that is chosen; None: nothing is."""
    snr = weighting.signal_to_noise(schedule)
    factors = []
    if loss.min_snr_gamma is not None:
        factors.append(weighting.min_snr(prediction, snr, loss.min_snr_gamma))
    if loss.debiased:
        factors.append(weighting.debiased(prediction, snr))
    if loss.p2_gamma is not None:
        factors.append(weighting.p2(prediction, snr, loss.p2_gamma, loss.p2_k))
    if loss.scale_v_like_noise:
        factors.append(weighting.like_noise(snr))
    if loss.v_like is not None:
        factors.append(weighting.with_velocity(snr, loss.v_like))
    return torch.stack(factors).prod(0).float() if factors else None


def timestep_shares(options: TimestepOptions, count: int) -> Tensor | None:
    """Give how often each of `count` timesteps is trained, against the others, (T,) float64; None: all alike."""
    match options.distribution:
        case "uniform":
            return None
        case "logit_normal":
            return shares.logit_normal_shares(count, options.mean, options.std)
        case "sigmoid":
            return shares.sigmoid_shares(count, options.slope, options.centre)
        case "weights":
            return shares.listed_shares(count, options.weights)


def cumulated_shares(options: CoreOptions, count: int) -> Tensor | None:
    """Sum up how often the run's timesteps are trained, for `draw_timestep`; None: all alike.

    Raises:
        ConfigError: The distribution leaves nothing in the run's range.
    """
    wanted, train = timestep_shares(options.timesteps, count), options.train
    if wanted is None:
        return None
    sums = shares.cumulate(wanted, train.min_timestep, train.max_timestep)
    if sums is None:
        raise ConfigError(
            f"timesteps.distribution {options.timesteps.distribution} has nothing between train.min_timestep "
            f"{train.min_timestep} and train.max_timestep {train.max_timestep}",
            hint="widen the range, or change the distribution",
        )
    return sums


def check_objective(options: CoreOptions, model: DiffusionModel) -> None:
    """Refuse options that the model's prediction gives no meaning to.

    Raises:
        ConfigError: All of them.
    """
    problems, loss = Problems(ConfigError), options.loss
    if loss.scale_v_like_noise and model.prediction != "v_prediction":
        problems.add(
            f"loss.scale_v_like_noise is for models that predict v; this one predicts {model.prediction}",
            hint="leave it out, or set model.prediction if the model is taken for what it is not",
        )
    if loss.v_like is not None and model.prediction != "epsilon":
        problems.add(
            f"loss.v_like is for models that predict noise; this one predicts {model.prediction}", hint="leave it out"
        )
    with problems.collect():
        cumulated_shares(options, len(model.schedule))
    problems.raise_if_any()
