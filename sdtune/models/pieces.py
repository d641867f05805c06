"""Pieces of captions as tensors: weights on hidden states, and many pieces as one conditioning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.models.base import Conditioning, join_conditionings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdtune.models.prompt import Row

_FAINT = 1e-4  # a mean below this share of the mean size is rounding, and tells nothing to restore


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """One text encoder's answer for all pieces of B captions.

    Attributes:
        hidden: (N, L, D), caption by caption.
        pooled: (N, P), or None where the encoder has no projection.
        counts: Pieces of each caption, N in all.
    """

    hidden: Tensor
    pooled: Tensor | None
    counts: tuple[int, ...]


def stack_rows(rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Give token ids (N, L) int64 and weights (N, L) float32 of N rows."""
    return torch.tensor([row.ids for row in rows]), torch.tensor([row.weights for row in rows])


def emphasize(hidden: Tensor, weights: Tensor) -> Tensor:
    """Multiply hidden states by weights and restore the mean of each piece, as webui's `Original` emphasis does.

    Args:
        hidden: (N, L, D).
        weights: (N, L); a piece of ones comes back to the last bit.
    """
    is_plain = (weights == 1).all(1)
    if is_plain.all():
        return hidden
    before = hidden.float()
    after = before * weights[..., None].to(hidden.device)
    old, new = before.mean((1, 2)), after.mean((1, 2))
    is_kept = is_plain.to(hidden.device) | (new.abs() <= _FAINT * after.abs().mean((1, 2)))
    factor = torch.where(is_kept, 1, old / torch.where(is_kept, 1, new))
    return (after * factor[:, None, None]).to(hidden.dtype)


def join_pieces(hidden: Tensor, pooled: Tensor | None, counts: Sequence[int]) -> Conditioning:
    """Join the pieces of each caption along L.

    Args:
        hidden: (N, L, D) states of all pieces, caption by caption.
        pooled: (N, P); a caption's is that of its first piece.
        counts: Pieces of each of the B captions, N in all.
    """
    sizes = list(counts)
    texts = [None] * len(sizes) if pooled is None else [own[:1] for own in torch.split(pooled, sizes)]
    return join_conditionings(
        [
            Conditioning(hidden=own.flatten(0, 1)[None], pooled=text)
            for own, text in zip(torch.split(hidden, sizes), texts, strict=True)
        ]
    )
