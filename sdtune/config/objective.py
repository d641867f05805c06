"""Options of the objective: what counts as an error, with what noise, at which timesteps, where in the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options

if TYPE_CHECKING:
    from collections.abc import Collection

LossType = Literal["l2", "l1", "huber", "smooth_l1"]
HuberSchedule = Literal["snr", "exponential", "constant"]
TimestepDistribution = Literal["uniform", "logit_normal", "sigmoid", "weights"]
_Share = Annotated[float, Field(ge=0, le=1)]


def _refuse_idle(options: Options, names: Collection[str], needs: str) -> None:
    """Refuse options that were changed and would do nothing."""
    fields = type(options).model_fields
    if idle := [name for name, value in options if name in names and value != fields[name].default]:
        raise ValueError(f"{' and '.join(idle)} would do nothing without {needs}")


class LossOptions(Options):
    """What counts as an error, and how much at each timestep. What is left as it is, is plain diffusion training."""

    type: LossType = "l2"
    """Loss of an element. `huber` and `smooth_l1` mind single wrong captions or spoiled pictures less than `l2`."""
    huber_schedule: HuberSchedule = "snr"
    """How c of `huber` and `smooth_l1` goes over the timesteps: from 1 where there is little noise down to `huber_c`,
    by the signal-to-noise ratio or exponentially, or the same everywhere."""
    huber_c: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Errors below c count as in `l2`, larger ones as in `l1`."""
    huber_scale: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Factor on c, in every schedule."""
    min_snr_gamma: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Min-SNR weighting: timesteps with little noise count less, and training settles sooner. 5 for models that predict
    noise, 1 also for anime models. null: off."""
    debiased: bool = False
    """Debiased estimation: timesteps with much noise count more. Instead of min-SNR."""
    p2_gamma: Annotated[float, Field(gt=0, le=10)] | None = None
    """P2 weighting 1 / (k + SNR)^gamma: what the eye sees counts more than faint noise; 0.5 to 1. Instead of min-SNR.
    null: off."""
    p2_k: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """k of P2 weighting."""
    scale_v_like_noise: bool = False
    """Only for models that predict v: weigh timesteps as a model of noise does."""
    v_like: Annotated[float, Field(gt=0, le=100)] | None = None
    """Only for models that predict noise: add so much of the loss as a v model would have it; 0.2 to 1. null: off."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        chosen = {
            "min_snr_gamma": self.min_snr_gamma is not None,
            "debiased": self.debiased,
            "p2_gamma": self.p2_gamma is not None,
        }
        if sum(chosen.values()) > 1:
            raise ValueError(f"give one of {', '.join(name for name, given in chosen.items() if given)}")
        if self.type in ("l2", "l1"):
            _refuse_idle(self, ("huber_schedule", "huber_c", "huber_scale"), "type: huber or smooth_l1")
        if self.p2_gamma is None:
            _refuse_idle(self, ("p2_k",), "p2_gamma")
        if self.scale_v_like_noise and self.v_like is not None:
            raise ValueError("scale_v_like_noise is for models that predict v, v_like for those of noise; give one")
        return self


class NoiseOptions(Options):
    """The noise that is added to latents. Every draw hangs on the seed, the epoch and the sample alone."""

    offset: _Share = 0.0
    """Shift each channel's noise as a whole, so that very dark and bright pictures are learned: 0.05 to 0.1, for models
    that predict noise. Not needed with zero terminal SNR."""
    offset_random: bool = False
    """Draw each sample's strength evenly from 0 to `offset`."""
    offset_adaptive: Annotated[float, Field(ge=-1, le=1)] = 0.0
    """Add so much to the strength for each unit of a channel's mean latent; the sum is at least 0. 0: off."""
    pyramid_levels: Annotated[int, Field(ge=0, le=20)] = 0
    """Multi-resolution noise of up to so many coarser levels, 6 to 10; another way to learn dark and bright. 0: off."""
    pyramid_discount: _Share = 0.3
    """How strong each level is against the one before; 0.1 to 0.3 for adapters, 0.8 for long runs."""
    perturbation: _Share = 0.0
    """Input perturbation: the model sees this much more noise than it is asked for, as it does when it draws; 0.1."""
    perturbation_random: bool = False
    """Draw each sample's perturbation evenly from 0 to `perturbation`."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if not self.offset:
            _refuse_idle(self, ("offset_random",), "offset, e.g. 0.05")
        if not self.pyramid_levels:
            _refuse_idle(self, ("pyramid_discount",), "pyramid_levels, e.g. 6")
        if not self.perturbation:
            _refuse_idle(self, ("perturbation_random",), "perturbation, e.g. 0.1")
        return self


class TimestepOptions(Options):
    """How often each timestep is trained, inside of `train.min_timestep` and `train.max_timestep`."""

    distribution: TimestepDistribution = "uniform"
    """All alike; bell-shaped (`logit_normal`); more where there is much noise (`sigmoid`); or as `weights` says."""
    mean: Annotated[float, Field(ge=-10, le=10)] = 0.0
    """Of `logit_normal`: 0 is the middle, above it more noise."""
    std: Annotated[float, Field(gt=0, le=10)] = 1.0
    """Of `logit_normal`: its width. With mean 0 it is the scale of kohya's `sigmoid`."""
    slope: Annotated[float, Field(ge=-100, le=100)] = 7.7
    """Of `sigmoid`: how steep it rises over the whole range; below 0 it falls."""
    centre: Annotated[float, Field(ge=-1, le=2)] = 0.5
    """Of `sigmoid`: where it is half as high as at its top; 0 is no noise, 1 all noise."""
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(max_length=1000)] = ()
    """Of `weights`: how often, from little noise to much; each number for an equal stretch, e.g. [1, 2, 1]."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if (self.distribution == "weights") != bool(self.weights):
            raise ValueError("distribution: weights and a list of weights belong together; set both, or neither")
        if self.distribution != "logit_normal":
            _refuse_idle(self, ("mean", "std"), "distribution: logit_normal")
        if self.distribution != "sigmoid":
            _refuse_idle(self, ("slope", "centre"), "distribution: sigmoid")
        if self.weights and not any(self.weights):
            raise ValueError("weights must not all be 0")
        return self


class MaskOptions(Options):
    """Where in a picture the loss counts: by masks in files, or by transparency (`data.alpha_weight`)."""

    dir: Path | None = None
    """Folder of masks: pictures named as the images and of their size, white where the loss counts. With `N_name`
    folders, it may hold folders of the same names. An image without a mask counts as a whole, or by `alpha_weight`."""
    unmasked_weight: _Share = 0.0
    """How much the rest of the picture counts; 0.1 keeps a little of the background."""
    normalise: bool = True
    """Divide by the mask's mean, so that a small subject counts as much as a large one; kohya's scripts do not."""
