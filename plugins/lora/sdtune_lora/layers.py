"""The adapter of LoRA: a frozen layer and two small trained matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdtune.api import Adapter
from sdtune_lora.functions import ConvLora, LinearLora, PointwiseLora

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropouts:
    """What is left out at random while training; chances in [0, 1).

    Attributes:
        element: An element of the activation between down and up.
        rank: A rank, for one sample; the others are scaled by 1 / (1 - p).
        module: The whole change of a layer.
    """

    element: float = 0.0
    rank: float = 0.0
    module: float = 0.0

    def __bool__(self) -> bool:
        return any((self.element, self.rank, self.module))


class LoraLayer(Adapter):
    """y = W x + b + alpha / rank * up down x (Hu et al. 2021, section 4.1).

    Draws of dropout come from torch's global generators, which checkpointing repeats in backward.

    Attributes:
        rank: R.
        alpha: Strength; the change is scaled by alpha / rank.
        lora_down: (R, in) or (R, in, k, k) float32.
        lora_up: (out, R) or (out, R, 1, 1) float32; zero at the start.
    """

    def __init__(self, base: nn.Module, *, rank: int, alpha: float, dropouts: Dropouts | None = None) -> None:
        super().__init__(base)
        self.rank = rank
        self.alpha = alpha
        self.dropouts = dropouts or Dropouts()
        weight = self.base.weight
        ones = [1] * (weight.dim() - 2)
        self.lora_down = nn.Parameter(weight.new_zeros(rank, *weight.shape[1:], dtype=torch.float32))
        self.lora_up = nn.Parameter(weight.new_zeros(len(weight), rank, *ones, dtype=torch.float32))
        self._apply_fused = _choose_function(self.base)

    @property
    def scale(self) -> float:
        """Factor on the change."""
        return self.alpha / self.rank

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        """Draw down from the Kaiming uniform distribution with a = sqrt(5), as nn.Linear does; set up to zero."""
        drawn = torch.empty(self.lora_down.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        self.lora_down.copy_(drawn)
        self.lora_up.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its change to x, (..., in) or (B, in, H, W), in the dtype of the frozen layer."""
        if self.training and self.dropouts:
            return self._forward_with_dropout(x)
        return self._apply_fused(x, self.lora_down, self.lora_up, self.base, self.scale)

    def delta_weight(self) -> Tensor:
        """Compute alpha / rank * up @ down, in the shape of the weight, float32."""
        product = self.lora_up.flatten(1) @ self.lora_down.flatten(1)
        return (product * self.scale).view(self.base.weight.shape)

    @torch.no_grad()
    def limit_norm(self, max_norm: float) -> Tensor:
        """Shrink both matrices by sqrt(max_norm / norm) if the change's Frobenius norm is above `max_norm`.

        Returns:
            () float32 norm before; stays on the device.
        """
        up, down = self.lora_up.flatten(1), self.lora_down.flatten(1)
        # |U D|^2 = sum((U^T U) * (D D^T)): small matrices only, the change itself is never made
        norm = ((up.t() @ up) * (down @ down.t())).sum().clamp(min=0).sqrt() * self.scale
        shrink = (max_norm / norm).clamp(max=1).sqrt()
        self.lora_up.mul_(shrink)
        self.lora_down.mul_(shrink)
        return norm

    def _forward_with_dropout(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        drops = self.dropouts
        if drops.module and torch.rand(()).item() < drops.module:  # drawn on the CPU: no wait for the device
            return y
        h = F.dropout(self._project(x), drops.element)
        if drops.rank:
            h = h * _rank_mask(h, drops.rank, rank_dim=1 if isinstance(self.base, nn.Conv2d) else -1)
        up = self.lora_up.to(x.dtype)
        change = F.conv2d(h, up) if isinstance(self.base, nn.Conv2d) else F.linear(h, up)
        return y + change * self.scale

    def _project(self, x: Tensor) -> Tensor:
        down = self.lora_down.to(x.dtype)
        if isinstance(self.base, nn.Conv2d):
            return F.conv2d(x, down, None, self.base.stride, self.base.padding, self.base.dilation)
        return F.linear(x, down)


def _choose_function(base: nn.Linear | nn.Conv2d) -> Callable[..., Tensor]:
    if isinstance(base, nn.Linear):
        return LinearLora.apply
    is_pointwise = (base.kernel_size, base.stride, base.padding) == ((1, 1), (1, 1), (0, 0))
    return PointwiseLora.apply if is_pointwise else ConvLora.apply


def _rank_mask(h: Tensor, chance: float, *, rank_dim: int) -> Tensor:
    """Draw which ranks each sample keeps: 0 or 1 / (1 - chance), of h's shape with 1 but for samples and ranks."""
    shape = [1] * h.dim()
    shape[0], shape[rank_dim] = h.shape[0], h.shape[rank_dim]
    return (torch.rand(shape, device=h.device) >= chance).to(h.dtype) / (1 - chance)
