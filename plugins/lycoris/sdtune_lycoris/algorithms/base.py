"""What all algorithms share: the settings of a layer, the drawing of factors, and the plain way to apply a change.

Letters: W (out, in) or (out, in, kh, kw) a frozen weight, r rank, s scale. Factors are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune_lycoris.config import Algo

Layer = nn.Linear | nn.Conv2d
Factors = Mapping[str, Tensor]
SCALAR = "scalar"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one layer is trained; the fields are the options of the same name, resolved for the layer.

    Attributes:
        has_bias: The layer has a bias, and it is trained.
    """

    algo: Algo
    rank: int = 16
    alpha: float = 16.0
    rs_lora: bool = False
    tucker: bool = False
    scalar: bool = False
    weight_decompose: bool = False
    factor: int | None = None
    full_matrix: bool = False
    decompose_both: bool = False
    on_input: bool = False
    constraint: float | None = None
    rescaled: bool = False
    has_bias: bool = False

    @property
    def scale(self) -> float:
        """S = alpha / r, or alpha / sqrt(r) with rs_lora (Kalajdzievski 2023)."""
        return self.alpha / (math.sqrt(self.rank) if self.rs_lora else self.rank)

    @property
    def file_alpha(self) -> float:
        """Alpha as a file tells it: every reader divides it by r."""
        return self.scale * self.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """An algorithm: pure functions of the frozen weight, the factors and the settings.

    Attributes:
        make: Draws the factors for a weight of the given shape; the change they make is zero.
        delta: Computes what is added to W (float32): its shape, float32.
        forward: Applies the changed layer to x, (..., in) or (B, in, H, W), in the dtype of x.
        tensors: Names the factors as files do, for the W (float32) they belong to.
    """

    make: Callable[[Sequence[int], Settings, torch.Generator], dict[str, Tensor]]
    delta: Callable[[Tensor, Factors, Settings], Tensor]
    forward: Callable[[Layer, Factors, Settings, Tensor], Tensor]
    tensors: Callable[[Tensor, Factors, Settings], dict[str, Tensor]]


def drawn_kaiming(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw as nn.Linear draws its weight: Kaiming uniform with a = sqrt(5)."""
    return nn.init.kaiming_uniform_(torch.empty(*shape), a=math.sqrt(5), generator=generator)


def drawn_normal(shape: Sequence[int], std: float, generator: torch.Generator) -> Tensor:
    """Draw from a normal distribution around 0."""
    return torch.empty(*shape).normal_(std=std, generator=generator)


def drawn_last(
    shape: Sequence[int], settings: Settings, draw: Callable[[Sequence[int]], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Give the factor that makes the change zero: zero itself, or drawn, beside a learned scalar that is zero."""
    if settings.scalar:
        return draw(shape), {SCALAR: torch.zeros(())}
    return torch.zeros(*shape), {}


def full_scale(factors: Factors, settings: Settings) -> float | Tensor:
    """Give s, times the learned scalar where there is one."""
    return settings.scale * factors[SCALAR] if SCALAR in factors else settings.scale


def is_spatial(shape: Sequence[int]) -> bool:
    """Tell whether a weight's shape is that of a convolution with a kernel above 1x1."""
    return len(shape) == 4 and math.prod(shape[2:]) > 1


def convolve(base: Layer, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply another weight as the layer applies its own."""
    if isinstance(base, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, base.stride, base.padding, base.dilation)


def mix(base: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """Apply a matrix (out, in) to the features of x, which are last for a Linear and second for a Conv2d."""
    if isinstance(base, nn.Linear):
        return F.linear(x, weight)
    return F.conv2d(x, weight[:, :, None, None])


def tucker_rows(core: Tensor, inner: Tensor) -> Tensor:
    """Multiply a core (r, r, kh, kw) and a factor (r, in) to (r, in * kh * kw)."""
    return torch.einsum("ijkl,jc->ickl", core, inner).flatten(1)


def changed_weight(
    delta: Callable[[Tensor, Factors, Settings], Tensor], base: Layer, factors: Factors, settings: Settings
) -> Tensor:
    """Compute W + delta W, summed in float32, in the dtype of W: what autocast does to a float32 weight."""
    frozen = base.weight
    weight = frozen.float()
    return (weight + delta(weight, factors, settings)).to(frozen.dtype)
