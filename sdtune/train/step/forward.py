"""One forward of training, from latents to losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdtune.data.caches.latents import encode_each
from sdtune.diffusion.noise import add_offset
from sdtune.diffusion.objective import add_noise, training_target
from sdtune.train.method import StepOutput
from sdtune.train.step.objective import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.models.base import Conditioning, DiffusionModel
    from sdtune.train.method import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInputs:
    """Everything a step needs, on its device, with nothing left to draw.

    Attributes:
        pixels: (B, 3, H, W) float32 in [-1, 1], or None when `mean` and `std` are given.
        mean: (B, C, h, w) float32 mean of the VAE's posterior, scaled.
        std: (B, C, h, w) float32 standard deviation, scaled.
        posterior_noise: (B, C, h, w) float32.
        noise: (B, C, h, w) float32, before an offset.
        timesteps: (B,) int64.
        captions: B captions, encoded here when `cond` is None.
        cond: The captions' conditioning from the cache.
        weights: (B,) float32.
        sizes: (B, 6) float32, see `Batch.sizes`; None: whole pictures of their own size.
        is_regularization: For each sample, whether it shows the class and not the subject; empty: none does.
        mask: (B, 1, h, w) float32 weight over the picture, or None.
        offset: (B, C, 1, 1) float32 standard normal: where the noise is shifted to; None: nowhere.
        offset_strength: (B, 1, 1, 1) float32: how far, before the part that hangs on the latents.
        perturbation: (B, C, h, w) float32 noise that the model sees and is not asked for (input perturbation,
            Ning et al. 2023), or None.
    """

    pixels: Tensor | None
    mean: Tensor | None
    std: Tensor | None
    posterior_noise: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: tuple[str, ...]
    cond: Conditioning | None
    weights: Tensor
    sizes: Tensor | None = None
    is_regularization: tuple[bool, ...] = ()
    mask: Tensor | None = None
    offset: Tensor | None = None
    offset_strength: Tensor | None = None
    perturbation: Tensor | None = None


class TrainStep(nn.Module):
    """Latents, text, noise, prediction, loss: per sample to the end."""

    def __init__(
        self,
        model: DiffusionModel,
        method: Method,  # type: ignore[type-arg]  # any options will do
        objective: Objective | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.method = method
        self.objective = objective or Objective()

    def forward(self, inputs: StepInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the weighted loss of each sample (B,) and its named terms, each (B,), detached."""
        terms = self.loss_terms(inputs, *self.predict(inputs))
        weighted = torch.stack(list(terms.values())).sum(0) * inputs.weights
        return weighted, {name: term.detach() for name, term in terms.items()}

    def predict(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """Give the model's answer and what it should have been, both (B, C, h, w)."""
        x_0 = self._latents(inputs)
        cond = self._conditioning(inputs)
        noise = self._noise(inputs, x_0)
        seen = noise if inputs.perturbation is None else noise + inputs.perturbation
        x_t = add_noise(self.model.schedule, x_0, seen, inputs.timesteps)
        prediction = self.model.denoise(x_t, inputs.timesteps, cond)
        return prediction, training_target(self.model.prediction, self.model.schedule, x_0, noise, inputs.timesteps)

    def loss_terms(self, inputs: StepInputs, prediction: Tensor, target: Tensor) -> Mapping[str, Tensor]:
        """Give the named terms of each sample's loss, each (B,), before the sample's weight."""
        loss = self.objective.losses(prediction, target, inputs.timesteps, inputs.mask)
        return self.method.loss_terms(
            StepOutput(loss=loss, prediction=prediction, target=target, timesteps=inputs.timesteps)
        )

    def _latents(self, inputs: StepInputs) -> Tensor:
        if inputs.mean is not None and inputs.std is not None:
            return inputs.mean + inputs.std * inputs.posterior_noise
        assert inputs.pixels is not None
        posterior = encode_each(self.model.encode_images, inputs.pixels)
        return posterior.mean + posterior.std * inputs.posterior_noise

    def _noise(self, inputs: StepInputs, x_0: Tensor) -> Tensor:
        if inputs.offset is None or inputs.offset_strength is None:
            return inputs.noise
        return add_offset(inputs.noise, inputs.offset, inputs.offset_strength, x_0, self.objective.adaptive_offset)

    def _conditioning(self, inputs: StepInputs) -> Conditioning:
        cond = self.model.encode_prompt(inputs.captions) if inputs.cond is None else inputs.cond
        return replace(cond, time_ids=inputs.sizes)
