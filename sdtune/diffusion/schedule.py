"""The noise schedule of a discrete diffusion model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """Cumulative signal of a forward process, DDPM (Ho et al. 2020, equation 4).

    Attributes:
        alpha_bar: (T,) float32 in (0, 1): the share of the clean signal's variance at each timestep, falling.
    """

    alpha_bar: Tensor

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """Build Stable Diffusion's schedule: the square root of beta is linear in the timestep."""
        beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
        return cls(torch.cumprod(1 - beta, dim=0))

    def __len__(self) -> int:
        return len(self.alpha_bar)
