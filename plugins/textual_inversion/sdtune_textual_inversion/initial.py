"""Vectors to begin from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def spread(vectors: Tensor, count: int) -> Tensor:
    """Choose the initial vectors (count, D) from those of a text (L, D), as webui does; zeros from an empty one."""
    if not len(vectors):
        return vectors.new_zeros(count, vectors.shape[1])
    used = vectors[:count]  # webui cuts the text to `count` tokens first
    return used[torch.arange(count) * len(used) // count].clone()
