"""A model's answers to the same small questions, for telling whether two models are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdtune.models.base import DiffusionModel, Part

_HEIGHT, _WIDTH = 8, 16  # latents; in the UNet's middle, 1/8 as wide, attention needs two tokens to mean anything
_TIMESTEPS = (50, 800)  # little noise and much: different layers matter


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What is asked.

    Attributes:
        captions: Two of them.
        has_vae: The VAE is asked too.
    """

    captions: tuple[str, str]
    has_vae: bool = False

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that answer."""
        return ("unet", "text_encoder", "vae") if self.has_vae else ("unet", "text_encoder")


@torch.no_grad()
def ask(model: DiffusionModel, probe: Probe) -> dict[str, Tensor]:
    """Give the answers of a model whose parts are loaded: `unet` (2, 4, 8, 16), and of the VAE `pixels` and `latents`.

    All on the CPU in float32; the model is in eval mode afterwards.
    """
    model.eval()
    device = model.source.device
    shape = (len(probe.captions), model.latent_channels, _HEIGHT, _WIDTH)
    latents = torch.randn(shape, generator=derive_generator(0, "probe")).to(device)
    timesteps = torch.tensor(_TIMESTEPS).to(device)
    answers = {"unet": model.denoise(latents, timesteps, model.encode_prompt(probe.captions))}
    if probe.has_vae:
        answers["pixels"] = model.decode_latents(latents[:1])
        answers["latents"] = model.encode_images(answers["pixels"]).mean
    return {name: answer.float().cpu() for name, answer in answers.items()}


@torch.no_grad()
def ask_loaded(model: DiffusionModel, probe: Probe) -> dict[str, Tensor]:
    """Do the same for any model: parts that are missing are there for as long as it takes."""
    missing = [part for part in probe.parts if not model.is_loaded(part)]
    for part in missing:
        model.load(part)
    try:
        return ask(model, probe)
    finally:
        for part in missing:
            model.unload(part)


def distances(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, float]:
    """Give the length of the difference of each answer."""
    return {name: float((found[name] - wanted[name]).norm()) for name in wanted}
