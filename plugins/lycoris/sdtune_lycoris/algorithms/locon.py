"""LoCon: LoRA for convolutions too (Hu et al. 2021, section 4.1), optionally with a Tucker core.

Shapes: `lora_down` (r, in[, kh, kw]), `lora_up` (out, r[, 1, 1]). With a core: `lora_down` (r, in, 1, 1),
`lora_mid` (r, r, kh, kw). delta W = s * up @ down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdtune_lycoris.algorithms.base import (
    SCALAR,
    Algorithm,
    Factors,
    Layer,
    Settings,
    convolve,
    drawn_kaiming,
    drawn_last,
    full_scale,
    tucker_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def make(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw down (and mid); up is zero."""
    out, inner, *kernel = shape
    rank, ones = settings.rank, [1] * len(kernel)
    factors = {"lora_down": drawn_kaiming([rank, inner, *(ones if settings.tucker else kernel)], generator)}
    if settings.tucker:
        factors["lora_mid"] = drawn_kaiming([rank, rank, *kernel], generator)
    up, scalar = drawn_last([out, rank, *ones], settings, lambda shape: drawn_kaiming(shape, generator))
    return factors | {"lora_up": up} | scalar


def delta(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute s * up @ down, or s * up @ (mid . down)."""
    down, up = factors["lora_down"].flatten(1), factors["lora_up"].flatten(1)
    rows = tucker_rows(factors["lora_mid"], down) if settings.tucker else down
    return (up @ rows).view(weight.shape) * full_scale(factors, settings)


def forward(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Add the small product to the layer's answer; delta W is never made."""
    down, up = factors["lora_down"].to(x.dtype), factors["lora_up"].to(x.dtype)
    if settings.tucker:
        h = convolve(base, F.conv2d(x, down), factors["lora_mid"].to(x.dtype))
    else:
        h = convolve(base, x, down)
    h = h * full_scale(factors, settings)
    change = F.linear(h, up) if isinstance(base, nn.Linear) else F.conv2d(h, up)
    answer: Tensor = base(x)
    return answer + change


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the factors; a learned scalar goes into up."""
    mid = {"lora_mid.weight": factors["lora_mid"]} if settings.tucker else {}
    return {
        "lora_down.weight": factors["lora_down"],
        "lora_up.weight": factors["lora_up"] * factors.get(SCALAR, 1.0),
        **mid,
        "alpha": torch.tensor(settings.file_alpha),
    }


LOCON = Algorithm(make=make, delta=delta, forward=forward, tensors=tensors)
