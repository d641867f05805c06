"""Orthogonal fine-tuning: rows of W are rotated in blocks (Qiu et al. 2023), once, or in butterfly stages (Liu et al. 2024).

Shapes: `oft_blocks` (n, b, b) for diag-OFT with out = n * b, (m, n, b, b) for BOFT with m = log2(n) + 1 stages and an
even b; `rescale` (out, 1[, 1, 1]). Q = B - B^T, R = (I + Q) (I - Q)^-1, and with a constraint |Q| <= c * out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune_lycoris.algorithms.base import Algorithm, Factors, Layer, Settings, changed_weight, convolve
from sdtune_lycoris.algorithms.splitting import split_butterfly, split_near

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def make_diagonal(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Give zeros: no rotation."""
    size, count = split_near(shape[0], settings.rank)
    return {"oft_blocks": torch.zeros(count, size, size)} | _made_rescale(shape, settings)


def make_butterfly(shape: Sequence[int], settings: Settings, generator: torch.Generator) -> dict[str, Tensor]:
    """Give zeros: no rotation.

    Raises:
        ValueError: The rows cannot be split.
    """
    split = split_butterfly(shape[0], settings.rank)
    if split is None:
        raise ValueError(f"{shape[0]} rows have no butterfly with blocks of at most {settings.rank}")
    size, count = split
    return {"oft_blocks": torch.zeros(count.bit_length(), count, size, size)} | _made_rescale(shape, settings)


def delta_diagonal(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute (R^T - I) W blockwise, and rescale."""
    turns = _rotations(factors, settings, len(weight))
    count, size, _ = turns.shape
    rows = weight.reshape(count, size, -1)
    turned = (turns - torch.eye(size, device=turns.device)).transpose(1, 2) @ rows
    return _rescaled(turned.reshape(weight.shape), weight, factors)


def delta_butterfly(weight: Tensor, factors: Factors, settings: Settings) -> Tensor:
    """Compute the rotations of all stages, stage i between rows 2^i * b/2 apart, minus W, and rescale."""
    turns = _rotations(factors, settings, len(weight))
    rows = weight.flatten(1)
    for stage, blocks in enumerate(turns):
        rows = _turn(rows, blocks, distance=2**stage * blocks.shape[-1] // 2)
    return _rescaled(rows.view(weight.shape) - weight, weight, factors)


def forward_diagonal(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Apply the rotated weight."""
    return convolve(base, x, changed_weight(delta_diagonal, base, factors, settings), base.bias)


def forward_butterfly(base: Layer, factors: Factors, settings: Settings, x: Tensor) -> Tensor:
    """Apply the rotated weight."""
    return convolve(base, x, changed_weight(delta_butterfly, base, factors, settings), base.bias)


def tensors(weight: Tensor, factors: Factors, settings: Settings) -> dict[str, Tensor]:
    """Name the factors, within the constraint already: readers disagree about any `alpha` but 0."""
    blocks = factors["oft_blocks"] * _shrink(_skew(factors["oft_blocks"]), settings, len(weight))
    rescale = {"rescale": factors["rescale"]} if "rescale" in factors else {}
    return {"oft_blocks": blocks, **rescale, "alpha": torch.tensor(0.0)}


def _made_rescale(shape: Sequence[int], settings: Settings) -> dict[str, Tensor]:
    return {"rescale": torch.ones(shape[0], *[1] * (len(shape) - 1))} if settings.rescaled else {}


def _skew(blocks: Tensor) -> Tensor:
    return blocks - blocks.transpose(-1, -2)


def _shrink(skew: Tensor, settings: Settings, rows: int) -> Tensor | float:
    """Give the factor that brings |Q| down to constraint * rows."""
    if settings.constraint is None:
        return 1.0
    return (settings.constraint * rows / skew.norm().clamp_min(1e-8)).clamp(max=1.0)


def _rotations(factors: Factors, settings: Settings, rows: int) -> Tensor:
    """Compute R by Cayley's transform; I + Q and the inverse of I - Q commute."""
    skew = _skew(factors["oft_blocks"])
    skew = skew * _shrink(skew, settings, rows)
    eye = torch.eye(skew.shape[-1], device=skew.device)
    return torch.linalg.solve(eye - skew, eye + skew)


def _turn(rows: Tensor, blocks: Tensor, *, distance: int) -> Tensor:
    """Rotate blocks of rows (out, in); a block holds both of each pair of rows that are `distance` apart."""
    count, size, _ = blocks.shape
    paired = rows.view(-1, 2, distance, rows.shape[1]).transpose(1, 2)
    turned = blocks @ paired.reshape(count, size, -1)
    return turned.view(-1, distance, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _rescaled(change: Tensor, weight: Tensor, factors: Factors) -> Tensor:
    if "rescale" not in factors:
        return change
    gain = factors["rescale"]
    return gain * change + (gain - 1) * weight


DIAG_OFT = Algorithm(make=make_diagonal, delta=delta_diagonal, forward=forward_diagonal, tensors=tensors)
BOFT = Algorithm(make=make_butterfly, delta=delta_butterfly, forward=forward_butterfly, tensors=tensors)
