"""The noise schedule of a discrete diffusion model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """Cumulative signal of a forward process, DDPM (Ho et al. 2020, equation 4).

    Attributes:
        alpha_bar: (T,) float32 in [0, 1): the share of the clean signal's variance at each timestep, falling.
    """

    alpha_bar: Tensor

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> NoiseSchedule:
        """Build Stable Diffusion's schedule: the square root of beta is linear in the timestep."""
        beta = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float32) ** 2
        return cls(torch.cumprod(1 - beta, dim=0))

    @property
    def has_zero_snr(self) -> bool:
        """Tell whether the last timestep is pure noise."""
        return bool(self.alpha_bar[-1] == 0)

    def rescaled_to_zero_snr(self) -> NoiseSchedule:
        """Shift and scale sqrt(alpha_bar) to end at exactly 0 and begin where it began (Lin et al. 2024, algorithm 1).

        A schedule that ends at 0 stays as it is.
        """
        signal = self.alpha_bar.double().sqrt()
        first, last = signal[0], signal[-1]
        rescaled = (signal - last) * (first / (first - last))
        return NoiseSchedule(rescaled.square().float())

    def __len__(self) -> int:
        return len(self.alpha_bar)
