"""diffusers' samplers for a model's own noise schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdtune.models.libraries import scheduler_classes

if TYPE_CHECKING:
    from sdtune.diffusion.schedule import NoiseSchedule
    from sdtune.models.base import Prediction
    from sdtune.sampling.request import SamplerName


def make_scheduler(name: SamplerName, schedule: NoiseSchedule, prediction: Prediction, steps: int) -> Any:
    """Build a scheduler whose timesteps are set; the spacing of each is the one A1111 uses.

    Where the schedule ends in pure noise, all of them begin there: DDIM's steps then count back from the last timestep
    (`trailing`, Lin et al. 2024, table 2). The others begin there anyway; since they divide by alpha_bar, theirs is
    diffusers' 2**-24 where the model's is 0; A1111 has such a number too. Karras' sigmas stay: most of them lie there,
    and with 20 of them the brightness of pictures, which is settled there, varies as in the data; with even steps half
    as much.

    Args:
        name: Sampler.
        schedule: The noise schedule the model was trained with.
        prediction: What the model predicts; for x_0 the answers must come as v, for diffusers' Euler knows no x_0.
        steps: Sampling steps.
    """
    dpm_solver, euler_ancestral, ddim = scheduler_classes()
    is_zero = schedule.has_zero_snr
    common: dict[str, Any] = {
        "num_train_timesteps": len(schedule),
        "trained_betas": _betas(schedule),
        "prediction_type": "v_prediction" if prediction == "sample" else prediction,
        "steps_offset": 1,
        "rescale_betas_zero_snr": is_zero,  # betas that end at 1 stay as they are
    }
    scheduler: Any
    match name:
        case "dpmpp_2m_karras":
            scheduler = dpm_solver(**common, algorithm_type="dpmsolver++", use_karras_sigmas=True)
        case "euler_a":
            scheduler = euler_ancestral(**common, timestep_spacing="linspace")
        case "ddim":
            spacing = "trailing" if is_zero else "leading"
            scheduler = ddim(**common, timestep_spacing=spacing, clip_sample=False, set_alpha_to_one=is_zero)
    scheduler.set_timesteps(steps)
    if name != "ddim":  # DDIM keeps no position; the others would look for it, and rounded timesteps may repeat
        scheduler.set_begin_index(0)
    return scheduler


def _betas(schedule: NoiseSchedule) -> list[float]:
    # beta_t = 1 - alpha_bar_t / alpha_bar_(t-1), with alpha_bar_(-1) = 1 (Ho et al. 2020, section 2).
    alpha_bar = schedule.alpha_bar.double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    betas: list[float] = (1 - alpha_bar / before).tolist()
    return betas
