"""Stochastic rounding from float32 to bfloat16: up or down by chance, so that the mean is the number itself.

A bfloat16 is the upper half of a float32. A learning step is mostly smaller than half of a weight's last place there,
and rounding to the nearest number would lose it every time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

_LOW_BITS = 16
_LARGEST = torch.finfo(torch.bfloat16).max


def round_stochastically(values: Tensor, low_bits: Tensor) -> Tensor:
    """Round to one of the two nearest bfloat16 numbers, to each by how near it is (Croci et al. 2022, section 1).

    Adding a number drawn from the low half's range carries into the upper half as often as the low half is large, in
    sign and magnitude as floats are stored; cutting the low half off then rounds. The mean over all draws is the value
    itself. Numbers that bfloat16 has stay, and so do infinity and NaN; beyond the largest there is the largest.

    Args:
        values: float32.
        low_bits: int32 in [0, 65536), drawn uniformly, of the same shape; it is used up.

    Returns:
        bfloat16, of the same shape.
    """
    values = values.contiguous()
    sum_of_bits = low_bits.add_(values.view(torch.int32)).bitwise_and_(-(1 << _LOW_BITS))
    rounded = sum_of_bits.view(torch.float32).clamp_(-_LARGEST, _LARGEST).to(torch.bfloat16)
    return torch.where(values.isfinite(), rounded, values.to(torch.bfloat16))


def draw_low_bits(like: Tensor, seed: int, *keys: int | str) -> Tensor:
    """Draw the bits `round_stochastically` needs, a function of seed and keys, on the device of `like`."""
    generator = torch.Generator(like.device).manual_seed(derive_seed(seed, "rounding", *keys))
    return torch.randint(1 << _LOW_BITS, like.shape, dtype=torch.int32, device=like.device, generator=generator)
