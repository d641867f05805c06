"""LoKr: the Kronecker product of a small and a large matrix, each full or of low rank (Yeh et al. 2023, LyCORIS).

out = l * k and in = m * n. Shapes: w1 (l, m) is `lokr_w1`, or `lokr_w1_a` (l, r) @ `lokr_w1_b` (r, m); w2 (k, n[, kh,
kw]) is `lokr_w2`, or `lokr_w2_a` (k, r) @ `lokr_w2_b` (r, n * kh * kw), or with a Tucker core `lokr_t2` (r, r, kh, kw)
`lokr_w2_a` (r, k) and `lokr_w2_b` (r, n). delta W = s * kron(w1, w2), and s = 1 where both are full.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sdtune_lycoris.algorithms.base import (
    SCALAR,
    Algorithm,
    Factors,
    Layer,
    Settings,
    convolve,
    drawn_kaiming,
    drawn_last,
    tucker_rows,
)
from sdtune_lycoris.algorithms.splitting import split_near

if TYPE_CHECKING:
    from collections.abc import Sequence


def make(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw w1 and, where it has two, the first part of w2; the other part of w2, or all of it, is zero."""
    out, inner, *kernel = shape
    (rows, large_rows), (columns, large_columns) = split_near(out, settings.factor), split_near(inner, settings.factor)
    rank, full = settings.rank, settings.full_matrix

    def draw(shape: Sequence[int]) -> Tensor:
        return drawn_kaiming(shape, generator)

    if settings.decompose_both and not full and rank < max(rows, columns) / 2:
        factors = {"lokr_w1_a": draw([rows, rank]), "lokr_w1_b": draw([rank, columns])}
    else:
        factors = {"lokr_w1": draw([rows, columns])}
    if full or rank >= max(large_rows, large_columns) / 2:
        name, last = "lokr_w2", [large_rows, large_columns, *kernel]
    elif settings.tucker:
        factors |= {"lokr_t2": draw([rank, rank, *kernel]), "lokr_w2_a": draw([rank, large_rows])}
        name, last = "lokr_w2_b", [rank, large_columns]
    else:
        factors |= {"lokr_w2_a": draw([large_rows, rank])}
        name, last = "lokr_w2_b", [rank, large_columns * math.prod(kernel)]
    zero, scalar = drawn_last(last, settings, draw)
    return factors | {name: zero} | scalar


def delta(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute s * kron(w1, w2)."""
    w1 = left(factors) * _scale(factors, settings)
    w2 = right(factors, weight.shape)
    return torch.kron(w1.view(*w1.shape, *[1] * (w2.dim() - 2)), w2)


def forward(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Add the change to the layer's answer: w2 on each of m slices of x, then w1 across them; never kron(w1, w2)."""
    w1 = (left(factors) * _scale(factors, settings)).to(x.dtype)
    w2 = right(factors, base.weight.shape).to(x.dtype)
    answer: Tensor = base(x)
    if isinstance(base, nn.Linear):
        return answer + (w1 @ convolve(base, x.unflatten(-1, (w1.shape[1], -1)), w2)).flatten(-2)
    slices = convolve(base, x.reshape(-1, w2.shape[1], *x.shape[2:]), w2)
    change = w1 @ slices.reshape(len(x), w1.shape[1], -1)
    return answer + change.view(answer.shape)


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the factors; a learned scalar goes into w1, a Tucker core is multiplied out, as two webuis refuse it."""
    if "lokr_t2" in factors:
        w2 = right(factors, weight.shape) * settings.scale
        w1 = left(factors) * factors.get(SCALAR, 1.0)
        return {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(float(settings.rank))}
    named = {name: factor for name, factor in factors.items() if name != SCALAR}
    first = "lokr_w1" if "lokr_w1" in factors else "lokr_w1_a"
    alpha = float(settings.rank) if _is_full(factors) else settings.file_alpha
    return {**named, first: factors[first] * factors.get(SCALAR, 1.0), "alpha": torch.tensor(alpha)}


def left(factors: Factors) -> Tensor:
    """Give w1, (l, m)."""
    return factors["lokr_w1"] if "lokr_w1" in factors else factors["lokr_w1_a"] @ factors["lokr_w1_b"]


def right(factors: Factors, shape: Sequence[int]) -> Tensor:
    """Give w2, (k, n) or (k, n, kh, kw), for a weight of the given shape."""
    if "lokr_w2" in factors:
        return factors["lokr_w2"]
    a, b = factors["lokr_w2_a"], factors["lokr_w2_b"]
    w2 = a.t() @ tucker_rows(factors["lokr_t2"], b) if "lokr_t2" in factors else a @ b
    return w2.view(len(w2), -1, *shape[2:])


def _is_full(factors: Factors) -> bool:
    return "lokr_w1" in factors and "lokr_w2" in factors


def _scale(factors: Factors, settings: Settings) -> float | Tensor:
    """Give s: 1 where no rank is known to a reader of the file."""
    scale = 1.0 if _is_full(factors) else settings.scale
    return scale * factors[SCALAR] if SCALAR in factors else scale


LOKR = Algorithm(make=make, delta=delta, forward=forward, tensors=tensors)
