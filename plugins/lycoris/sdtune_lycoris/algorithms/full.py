"""Full: the difference itself, of the weight's shape, and of the bias's.

Shapes: `diff` as W, `diff_b` (out). delta W = diff.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdtune_lycoris.algorithms.base import Algorithm, Factors, Layer, Settings, changed_weight, convolve

if TYPE_CHECKING:
    from collections.abc import Sequence


def make(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Give zeros."""
    bias = {"diff_b": torch.zeros(shape[0])} if settings.has_bias else {}
    return {"diff": torch.zeros(*shape)} | bias


def delta(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Give the difference."""
    return factors["diff"]


def forward(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Apply W + diff and b + diff_b."""
    bias = base.bias
    if bias is not None and "diff_b" in factors:
        bias = (bias + factors["diff_b"]).to(x.dtype)
    return convolve(base, x, changed_weight(delta, base, factors, settings), bias)


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the differences."""
    return dict(factors)


FULL = Algorithm(make=make, delta=delta, forward=forward, tensors=tensors)
