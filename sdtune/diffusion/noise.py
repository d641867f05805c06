"""Noise that is not plain: shifted as a whole, or with coarse patches.

Letters: eps noise, x_0 clean latents, z standard normal. Every sample is treated alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import interpolate

if TYPE_CHECKING:
    from torch import Generator, Tensor


def add_offset(eps: Tensor, z: Tensor, strength: Tensor, x_0: Tensor, adaptive: float = 0.0) -> Tensor:
    """Give eps + max(0, strength + adaptive |mean of x_0|) z: each channel shifted as a whole.

    So a model learns the brightness of pictures, which plain noise hardly hides (Guttenberg 2023, "Diffusion with
    offset noise"); the adaptive part is from kohya's scripts.

    Args:
        eps: (B, C, h, w).
        z: (B, C, 1, 1) standard normal.
        strength: (B, 1, 1, 1).
        x_0: (B, C, h, w); its means are taken over h, w.
        adaptive: Strength for each unit of a channel's mean; may be negative.
    """
    if adaptive:
        strength = (strength + adaptive * x_0.mean((2, 3), keepdim=True).abs()).clamp(min=0)
    return eps + strength * z


def pyramid_noise(eps: Tensor, levels: int, discount: float, generator: Generator) -> Tensor:
    """Add coarser and coarser noise to one sample's, and scale to a standard deviation of 1.

    Level i = 0, 1, ... adds discount^i times noise of h / r^i x w / r^i, enlarged bilinearly, with r drawn from [2, 4)
    at each level, down to a side of 1 (Whitaker 2023, "Multi-resolution noise for diffusion model training"; as in
    kohya's scripts, where the standard deviation is that of the whole batch, so that samples hang on their neighbours).

    Args:
        eps: (C, h, w).
        levels: At most so many.
        discount: How much weaker each level is than the one before, 0 to 1.
        generator: Draws r and the noise of the levels.
    """
    height, width = eps.shape[-2:]
    total = eps[None]
    for level in range(levels):
        ratio = (2 + 2 * float(torch.rand((), generator=generator))) ** level
        size = max(1, int(height / ratio)), max(1, int(width / ratio))
        coarse = torch.randn((1, eps.shape[0], *size), generator=generator)
        total = total + discount**level * interpolate(coarse, (height, width), mode="bilinear", align_corners=False)
        if 1 in size:
            break
    return (total / total.std())[0]
