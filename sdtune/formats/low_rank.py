"""A LoRA between two dialects: one layer's factors under the name that all dialects are brought to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LowRank:
    """One layer of a LoRA.

    Attributes:
        path: Name as `Target.path`: `unet.`, `text_encoder.text_model.` or `text_encoder_2.text_model.` first.
        down: (R, in) or (R, in, kh, kw), as stored.
        up: (out, R) or (out, R, 1, 1), as stored.
        alpha: The layer adds alpha / R times up @ down to its weight.
    """

    path: str
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def component(self) -> str:
        """First word of the path."""
        return self.path.partition(".")[0]

    @property
    def module(self) -> str:
        """The path without its component."""
        return self.path.partition(".")[2]

    @property
    def rank(self) -> int:
        """The rank R."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """The factor alpha / R."""
        return self.alpha / self.rank

    @property
    def folded_up(self) -> Tensor:
        """`up` times the scale, in its own dtype; exact where the scale is a power of two."""
        return self.up if self.scale == 1 else (self.up.double() * self.scale).to(self.up.dtype)


def merge_middle(middle: Tensor, down: Tensor) -> Tensor:
    """Multiply the middle factor of a Tucker convolution (R, R, kh, kw) into `down` (R, in, 1, 1): (R, in, kh, kw)."""
    return torch.einsum("nmhw,mi->nihw", middle.double(), down.flatten(1).double()).to(down.dtype)
