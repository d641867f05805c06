"""The random draws of a step, made outside it, each a function of (seed, epoch, sample id)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from sdtune.randomness import derive_generator, derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Random numbers for B samples, on the CPU.

    Attributes:
        noise: (B, C, h, w) float32 standard normal: eps.
        posterior_noise: (B, C, h, w) float32 standard normal: picks a latent from the VAE's posterior.
        timesteps: (B,) int64.
    """

    noise: Tensor
    posterior_noise: Tensor
    timesteps: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawer:
    """Draws for one run.

    Attributes:
        seed: The run's seed.
        min_timestep: First timestep, included.
        max_timestep: Last timestep, excluded.
        latent_sampling: `random`, `once` (the same at each visit) or `deterministic` (the posterior's mean).
    """

    seed: int
    min_timestep: int
    max_timestep: int
    latent_sampling: Literal["random", "once", "deterministic"] = "random"

    def draw(self, epoch: int, sample_ids: Sequence[str], shape: tuple[int, int, int]) -> Draws:
        """Draw for samples of one latent shape (C, h, w); the same for each sample whatever batch it is in."""
        return Draws(
            noise=self._normal("noise", epoch, sample_ids, shape),
            posterior_noise=self._posterior(epoch, sample_ids, shape),
            timesteps=torch.tensor([self._timestep(epoch, sample_id) for sample_id in sample_ids]),
        )

    def seed_layers(self, epoch: int, sample_ids: Sequence[str]) -> None:
        """Seed torch's own generator, which dropout layers use, for one micro-step."""
        torch.manual_seed(derive_seed(self.seed, "layers", epoch, *sample_ids))

    def _posterior(self, epoch: int, sample_ids: Sequence[str], shape: tuple[int, int, int]) -> Tensor:
        if self.latent_sampling == "deterministic":
            return torch.zeros(len(sample_ids), *shape)
        if self.latent_sampling == "once":
            return self._normal("posterior", 0, [sample_id.rpartition("#")[0] for sample_id in sample_ids], shape)
        return self._normal("posterior", epoch, sample_ids, shape)

    def _normal(self, purpose: str, epoch: int, sample_ids: Sequence[str], shape: tuple[int, int, int]) -> Tensor:
        generators = (derive_generator(self.seed, purpose, epoch, sample_id) for sample_id in sample_ids)
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    def _timestep(self, epoch: int, sample_id: str) -> int:
        generator = derive_generator(self.seed, "timestep", epoch, sample_id)
        return int(torch.randint(self.min_timestep, self.max_timestep, (), generator=generator))
