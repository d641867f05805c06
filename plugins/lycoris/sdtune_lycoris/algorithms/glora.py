"""GLoRA: a low-rank change of the input and one of the weight, for linear layers (Chavan et al. 2023).

Shapes: `a1` (in, r), `a2` (r, in), `b1` (out, r), `b2` (r, in). delta W = s * (b1 @ b2 + W @ a1 @ a2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from sdtune_lycoris.algorithms.base import Algorithm, Factors, Layer, Settings, drawn_kaiming, drawn_last, full_scale

if TYPE_CHECKING:
    from collections.abc import Sequence


def make(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a1 and b1; a2 and b2 are zero."""
    out, inner = shape
    rank = settings.rank

    def draw(shape: Sequence[int]) -> Tensor:
        return drawn_kaiming(shape, generator)

    factors = {"a1": draw([inner, rank]), "b1": draw([out, rank])}
    a2, scalar = drawn_last([rank, inner], settings, draw)
    b2, _ = drawn_last([rank, inner], settings, draw)
    return factors | {"a2": a2, "b2": b2} | scalar


def delta(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute s * (b1 @ b2 + W @ a1 @ a2)."""
    change = factors["b1"] @ factors["b2"] + weight @ factors["a1"] @ factors["a2"]
    return change * full_scale(factors, settings)


def forward(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Apply W to x + s * a1 a2 x, and add s * b1 b2 x; delta W is never made."""
    a1, a2, b1, b2 = (factors[name].to(x.dtype) for name in ("a1", "a2", "b1", "b2"))
    scale = full_scale(factors, settings)
    answer: Tensor = base(x + F.linear(F.linear(x, a2) * scale, a1))
    return answer + F.linear(F.linear(x, b2) * scale, b1)


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the factors in the older layout, delta W = b2 @ b1 + W @ a2 @ a1: A1111 knows no other, and no scale."""
    scale = full_scale(factors, settings)
    return {
        "a1.weight": factors["a2"] * scale,
        "a2.weight": factors["a1"],
        "b1.weight": factors["b2"] * scale,
        "b2.weight": factors["b1"],
        "alpha": torch.tensor(float(settings.rank)),
    }


GLORA = Algorithm(make=make, delta=delta, forward=forward, tensors=tensors)
