"""(IA)^3: one learned factor for each input or output channel (Liu et al. 2022).

Shapes: `weight` (in) or (out) for a Linear, (1, in or out, 1, 1) for a Conv2d. W' = W * (1 + weight) along that axis.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdtune_lycoris.algorithms.base import Algorithm, Factors, Layer, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence


def make(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Give zeros."""
    channels = shape[1] if settings.on_input else shape[0]
    return {"weight": torch.zeros(channels) if len(shape) == 2 else torch.zeros(1, channels, 1, 1)}


def delta(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute W * weight along the trained axis."""
    gains = factors["weight"].flatten()
    return weight * _along(gains, weight.dim(), axis=1 if settings.on_input else 0)


def forward(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Stretch the channels of x, or of the answer without its bias."""
    gains = factors["weight"].to(x.dtype)
    if settings.on_input:
        return _answer(base, x + x * gains)
    y = _answer(base, x)
    if base.bias is None:
        return y + y * gains
    return y + (y - _along(base.bias, gains.dim(), axis=gains.dim() // 4)) * gains


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the factors; as `diff` for output channels of a Conv2d, which no webui can apply."""
    if weight.dim() == 4 and not settings.on_input:
        return {"diff": delta(weight, factors, settings)}
    return {"weight": factors["weight"], "on_input": torch.tensor(int(settings.on_input))}


def _answer(base: Layer, x: Tensor) -> Tensor:
    answer: Tensor = base(x)
    return answer


def _along(channels: Tensor, dims: int, *, axis: int) -> Tensor:
    shape = [1] * dims
    shape[axis] = -1
    return channels.view(shape)


IA3 = Algorithm(make=make, delta=delta, forward=forward, tensors=tensors)
