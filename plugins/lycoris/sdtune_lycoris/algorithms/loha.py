"""LoHa: the elementwise product of two low-rank matrices, of rank up to r^2 (Hyeon-Woo et al. 2021).

Shapes: `hada_w1_a`, `hada_w2_a` (out, r), `hada_w1_b`, `hada_w2_b` (r, in * kh * kw). With Tucker cores `hada_t1`,
`hada_t2` (r, r, kh, kw): the a are (r, out), the b (r, in). delta W = s * (w1_a @ w1_b) o (w2_a @ w2_b).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from sdtune_lycoris.algorithms.base import (
    SCALAR,
    Algorithm,
    Factors,
    Layer,
    Settings,
    changed_weight,
    convolve,
    drawn_last,
    drawn_normal,
    full_scale,
    tucker_rows,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

# mypy: disable-error-code="override"
# Function.forward and backward are declared to take anything.


class HadamardProduct(Function):
    """(a1 @ b1) o (a2 @ b2), keeping the factors alone: both products are of W's size, and made again in backward."""

    @staticmethod
    def forward(ctx: Any, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(a1, b1, a2, b2)
        return (a1 @ b1).mul_(a2 @ b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        """Give the gradients of a1, b1, a2, b2."""
        a1, b1, a2, b2 = ctx.saved_tensors
        first = (a2 @ b2).mul_(gradient)
        grad_a1, grad_b1 = first @ b1.t(), a1.t() @ first
        del first
        second = (a1 @ b1).mul_(gradient)
        return grad_a1, grad_b1, second @ b2.t(), a2.t() @ second


def make(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw all factors but w2_a, which is zero."""
    out, inner, *kernel = shape
    rank = settings.rank
    outer = [rank, out] if settings.tucker else [out, rank]
    inner_shape = [rank, inner if settings.tucker else inner * math.prod(kernel)]
    factors = {
        "hada_w1_a": drawn_normal(outer, 0.1, generator),
        "hada_w1_b": drawn_normal(inner_shape, 1.0, generator),
        "hada_w2_b": drawn_normal(inner_shape, 1.0, generator),
    }
    if settings.tucker:
        factors["hada_t1"] = drawn_normal([rank, rank, *kernel], 0.1, generator)
        factors["hada_t2"] = drawn_normal([rank, rank, *kernel], 0.1, generator)
    last, scalar = drawn_last(outer, settings, lambda shape: drawn_normal(shape, 0.1, generator))
    return factors | {"hada_w2_a": last} | scalar


def delta(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute s * (w1_a @ w1_b) o (w2_a @ w2_b)."""
    a1, b1 = _pair(factors, settings, 1)
    a2, b2 = _pair(factors, settings, 2)
    product: Tensor = HadamardProduct.apply(a1 * full_scale(factors, settings), b1, a2, b2)
    return product.view(weight.shape)


def forward(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Apply W + delta W."""
    return convolve(base, x, changed_weight(delta, base, factors, settings), base.bias)


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the factors; a learned scalar goes into w1_a."""
    named = {name: factor for name, factor in factors.items() if name != SCALAR}
    return {
        **named,
        "hada_w1_a": factors["hada_w1_a"] * factors.get(SCALAR, 1.0),
        "alpha": torch.tensor(settings.file_alpha),
    }


def _pair(factors: Factors, settings: Settings, number: int) -> tuple[Tensor, Tensor]:
    """Give two matrices (out, r) and (r, in * kh * kw)."""
    a, b = factors[f"hada_w{number}_a"], factors[f"hada_w{number}_b"]
    return (a.t(), tucker_rows(factors[f"hada_t{number}"], b)) if settings.tucker else (a, b)


LOHA = Algorithm(make=make, delta=delta, forward=forward, tensors=tensors)
