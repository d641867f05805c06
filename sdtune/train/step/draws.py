"""The random draws of a step, made outside it, each a function of (seed, epoch, sample id)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from sdtune.config.objective import NoiseOptions
from sdtune.diffusion.noise import pyramid_noise
from sdtune.diffusion.timesteps import draw_timestep
from sdtune.randomness import derive_generator, derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_PLAIN = NoiseOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Random numbers for B samples, on the CPU.

    Attributes:
        noise: (B, C, h, w) float32: eps before an offset; standard normal, unless it is pyramid noise.
        posterior_noise: (B, C, h, w) float32 standard normal: picks a latent from the VAE's posterior.
        timesteps: (B,) int64.
        offset: (B, C, 1, 1) float32 standard normal: where the noise is shifted to; None: nowhere.
        offset_strength: (B, 1, 1, 1) float32: how far.
        perturbation: (B, C, h, w) float32 noise that the model sees and is not asked for (input perturbation,
            Ning et al. 2023), or None.
    """

    noise: Tensor
    posterior_noise: Tensor
    timesteps: Tensor
    offset: Tensor | None = None
    offset_strength: Tensor | None = None
    perturbation: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawer:
    """Draws for one run.

    Attributes:
        seed: The run's seed.
        min_timestep: First timestep, included.
        max_timestep: Last timestep, excluded.
        latent_sampling: `random`, `once` (the same at each visit) or `deterministic` (the posterior's mean).
        noise: What the noise is like.
        cumulated_shares: How often timesteps are drawn, as `draw_timestep` takes it; None: all alike.
    """

    seed: int
    min_timestep: int
    max_timestep: int
    latent_sampling: Literal["random", "once", "deterministic"] = "random"
    noise: NoiseOptions = _PLAIN
    cumulated_shares: Tensor | None = None

    def draw(self, epoch: int, sample_ids: Sequence[str], shape: tuple[int, int, int]) -> Draws:
        """Draw for samples of one latent shape (C, h, w); the same for each sample whatever batch it is in."""
        noise, ids = self.noise, sample_ids
        has_offset = bool(noise.offset or noise.offset_adaptive)
        return Draws(
            noise=self._pyramid(epoch, ids, self._normal("noise", epoch, ids, shape)),
            posterior_noise=self._posterior(epoch, ids, shape),
            timesteps=torch.tensor([self._timestep(epoch, sample_id) for sample_id in ids]),
            offset=self._normal("offset", epoch, ids, (shape[0], 1, 1)) if has_offset else None,
            offset_strength=self._strength("offset_strength", epoch, ids, noise.offset, is_random=noise.offset_random)
            if has_offset
            else None,
            perturbation=self._perturbation(epoch, ids, shape) if noise.perturbation else None,
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

    def _pyramid(self, epoch: int, sample_ids: Sequence[str], noise: Tensor) -> Tensor:
        levels, discount = self.noise.pyramid_levels, self.noise.pyramid_discount
        if not levels:
            return noise
        generators = (derive_generator(self.seed, "pyramid", epoch, sample_id) for sample_id in sample_ids)
        pairs = zip(noise, generators, strict=True)
        return torch.stack([pyramid_noise(own, levels, discount, generator) for own, generator in pairs])

    def _perturbation(self, epoch: int, sample_ids: Sequence[str], shape: tuple[int, int, int]) -> Tensor:
        most, is_random = self.noise.perturbation, self.noise.perturbation_random
        strength = self._strength("perturbation_strength", epoch, sample_ids, most, is_random=is_random)
        return strength * self._normal("perturbation", epoch, sample_ids, shape)

    def _strength(self, purpose: str, epoch: int, sample_ids: Sequence[str], most: float, *, is_random: bool) -> Tensor:
        """Give each sample's strength, (B, 1, 1, 1): `most`, or drawn evenly from 0 to it."""
        if not is_random:
            return torch.full((len(sample_ids), 1, 1, 1), most)
        generators = (derive_generator(self.seed, purpose, epoch, sample_id) for sample_id in sample_ids)
        return most * torch.stack([torch.rand((1, 1, 1), generator=generator) for generator in generators])

    def _timestep(self, epoch: int, sample_id: str) -> int:
        generator = derive_generator(self.seed, "timestep", epoch, sample_id)
        return draw_timestep(generator, self.min_timestep, self.max_timestep, self.cumulated_shares)
