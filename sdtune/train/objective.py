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

_BENT = ("huber", "smooth_l1")
_FEW = 0.01  # a weight below this share of the largest


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
    bent = huber_table(schedule, loss.huber_schedule, loss.huber_c, loss.huber_scale) if loss.type in _BENT else None
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


def describe_objective(options: CoreOptions, model: DiffusionModel) -> str:
    """Say in words what is chosen, for the plan."""
    return "; ".join(filter(None, (_loss_text(options, model), _noise_text(options), _timesteps_text(options))))


def objective_notes(options: CoreOptions, model: DiffusionModel) -> list[str]:
    """List what may surprise in the objective, one line each."""
    notes = []
    weights = timestep_weights(options.loss, model.prediction, model.schedule)
    if model.schedule.has_zero_snr and weights is not None and weights[-1] < _FEW * weights.max():
        notes.append(
            "the loss weighting leaves out the timestep of pure noise, which zero terminal SNR is there for; "
            "loss.debiased keeps it"
        )
    if model.schedule.has_zero_snr and options.noise.offset:
        notes.append("noise.offset is not needed with zero terminal SNR: dark and bright are learned there")
    return notes


def _loss_text(options: CoreOptions, model: DiffusionModel) -> str:
    loss = options.loss
    answer = {"epsilon": "noise", "v_prediction": "v", "sample": "x_0"}[model.prediction]
    words = [f"{loss.type} of {answer}"]
    if loss.type in _BENT:
        scale = f" x {loss.huber_scale:g}" if loss.huber_scale != 1 else ""
        words.append(f"c {loss.huber_c:g}{scale} by {loss.huber_schedule}")
    if loss.min_snr_gamma is not None:
        words.append(f"min-SNR gamma {loss.min_snr_gamma:g}")
    if loss.debiased:
        words.append("debiased estimation")
    if loss.p2_gamma is not None:
        words.append(f"P2 gamma {loss.p2_gamma:g}, k {loss.p2_k:g}")
    if loss.scale_v_like_noise:
        words.append("weighed like noise")
    if loss.v_like is not None:
        words.append(f"plus {loss.v_like:g} of it like v")
    return ", ".join(words)


def _noise_text(options: CoreOptions) -> str:
    noise, words = options.noise, []
    if noise.offset or noise.offset_adaptive:
        adaptive = f" and {noise.offset_adaptive:g} x mean latent" if noise.offset_adaptive else ""
        words.append(f"noise offset {'0 to ' * noise.offset_random}{noise.offset:g}{adaptive}")
    if noise.pyramid_levels:
        words.append(f"pyramid noise of {noise.pyramid_levels} levels, discount {noise.pyramid_discount:g}")
    if noise.perturbation:
        words.append(f"input perturbation {'0 to ' * noise.perturbation_random}{noise.perturbation:g}")
    return ", ".join(words)


def _timesteps_text(options: CoreOptions) -> str:
    chosen, train = options.timesteps, options.train
    details = {
        "uniform": "",
        "logit_normal": f" logit-normal, mean {chosen.mean:g}, std {chosen.std:g}",
        "sigmoid": f" sigmoid, slope {chosen.slope:g}, centre {chosen.centre:g}",
        "weights": f" by {len(chosen.weights)} weights",
    }[chosen.distribution]
    is_whole = (train.min_timestep, train.max_timestep) == (0, 1000)
    span = "" if is_whole else f" {train.min_timestep} to {train.max_timestep - 1}"
    return f"timesteps{span}{details}" if details or span else ""
