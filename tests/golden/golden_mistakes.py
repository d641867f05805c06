"""Deliberate mistakes, each as small as one that a program could hide: golden numbers must tell all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from sdtune.data import batches
from sdtune.diffusion import objective as diffusion
from sdtune.models.sd import StableDiffusion1, StableDiffusion2, StableDiffusionXL
from sdtune.train.step.draws import Drawer
from sdtune.train.step.objective import Objective

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    Patch = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """Something that is wrong.

    Attributes:
        case: The training in which it is looked for.
        name: What is wrong.
        options: Overrides that make it.
        patch: Or what puts it into the program.
    """

    case: str
    name: str
    options: tuple[str, ...] = ()
    patch: Patch | None = None

    def __str__(self) -> str:
        return f"{self.case}: {self.name}"


def _around(owner: object, name: str, wrong: Callable[..., object]) -> Patch:
    """Put `wrong(original, *arguments)` in the place of a function."""
    original = getattr(owner, name)
    return lambda patch: patch.setattr(owner, name, lambda *args, **named: wrong(original, *args, **named))


def _a_step_earlier(timesteps):
    return (timesteps - 1).clamp(min=0)


def _times(factor):
    return lambda original, *args, **named: original(*args, **named) * factor


def _noise_of_the_neighbour(original, *args):
    draws = original(*args)
    return replace(draws, noise=draws.noise.roll(1, 0))


def _wider_posterior(original, *args):
    posterior = original(*args)
    return replace(posterior, std=posterior.std * 1.01)


def _scaled_latents(original, *args):
    posterior = original(*args)
    return replace(posterior, mean=posterior.mean * 1.01, std=posterior.std * 1.01)


def _swapped_sides(original, *args, **named):
    height, width, top, left, *target = original(*args, **named)
    return (height, width, left, top, *target)


def _lost_weight(original, *args, **named):
    weights = named["weights"] * 1.01
    return original(*args, **{**named, "weights": weights})


def _norm_of_parts(original, gradients, **named):
    return original(gradients[:-1], **named)


_SD1, _SD2, _SDXL = StableDiffusion1, StableDiffusion2, StableDiffusionXL

_LORA = {
    "another seed": ("train.seed=12",),
    "alpha 1 % off": ("lora.alpha=1.01",),
    "learning rate 0.1 % off": ("train.lr=1.001e-2",),
    "the text encoder's learning rate 1 % off": ("lora.text_encoder_lr=5.05e-3",),
    "Adam's first beta off": ("train.optimizer.betas=[0.901,0.999]",),
    "Adam's second beta off": ("train.optimizer.betas=[0.9,0.998]",),
    "eps off": ("train.optimizer.eps=1.1e-6",),
    "weight decay half": ("train.optimizer.weight_decay=0.005",),
    "warmup a step shorter": ("train.schedule.warmup=1",),
    "norm of gradients clipped 1 % later": ("train.max_grad_norm=0.101",),
    "no caption dropped": ("data.caption_dropout=0",),
    "an earlier hidden state of the text encoder": ("model.clip_skip=2",),
}
_PATCHES: dict[str, tuple[str, Patch]] = {
    "noise schedule off by one timestep": (
        "sd2-lora",
        _around(diffusion, "signal_and_noise", lambda original, schedule, t: original(schedule, _a_step_earlier(t))),
    ),
    "the model is told the timestep before": (
        "sd2-lora",
        _around(_SD2, "denoise", lambda original, model, x, t, cond: original(model, x, _a_step_earlier(t), cond)),
    ),
    "latents scaled 1 % off": ("sd2-lora", _around(_SD2, "encode_images", _scaled_latents)),
    "the posterior 1 % too wide": ("sd2v-lora", _around(_SD2, "encode_images", _wider_posterior)),
    "the velocity of the timestep before": (
        "sd2v-lora",
        _around(diffusion, "velocity", lambda original, s, x, eps, t: original(s, x, eps, _a_step_earlier(t))),
    ),
    "the loss weighs 0.1 % more": ("sd2v-lora", _around(Objective, "losses", _times(1.001))),
    "one subset weighs 1 % more": ("sd2v-lora", _around(batches, "Batch", _lost_weight)),
    "noise of the neighbour in the batch": ("sd2-textual_inversion", _around(Drawer, "draw", _noise_of_the_neighbour)),
    "a gradient is left out of the norm": (
        "sd2-textual_inversion",
        _around(torch.nn.utils, "get_total_norm", _norm_of_parts),
    ),
    "top and left of the crop swapped": ("sdxl-lora", _around(batches, "describe_size", _swapped_sides)),
}
MISTAKES = [
    *(Mistake(case="sd1-lora", name=name, options=options) for name, options in _LORA.items()),
    *(Mistake(case=case, name=name, patch=patch) for name, (case, patch) in _PATCHES.items()),
    Mistake(case="sd2-hypernetwork", name="strength 1 % off", options=("hypernetwork.strength=1.01",)),
    Mistake(case="sd2-lycoris-lokr", name="alpha 1 % off", options=("lycoris.alpha=2.02",)),
    Mistake(case="sd2v-dylora", name="another unit", options=("dylora.unit=1",)),
    Mistake(case="sd2v-dreambooth", name="rate 0.1 % off", options=("dreambooth.unet_lr=1.001e-4",)),
    Mistake(case="sdxl-textual_inversion", name="rate 0.1 % off", options=("textual_inversion.lr=5.005e-3",)),
]
