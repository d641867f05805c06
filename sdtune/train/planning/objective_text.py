"""The objective of a run in words, for the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.train.step.objective import BENT, timestep_weights

if TYPE_CHECKING:
    from sdtune.config.schema import CoreOptions
    from sdtune.models.base import DiffusionModel

_FEW = 0.01  # a weight below this share of the largest


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
    if loss.type in BENT:
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
