"""The adapters: thin modules that own factors and call an algorithm's functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdtune.api import Adapter, WeightChange
from sdtune_lycoris.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune_lycoris.algorithms import Settings

MAGNITUDE = "dora_scale"


class LycorisLayer(Adapter):
    """A frozen layer with the change of an algorithm; without its change at the start.

    With `weight_decompose` (DoRA, Liu et al. 2024) the changed weight V = W + delta W is stretched along its input
    columns, W' = V * m / |V|, which is x * m / |V| before V. The norm is a constant to the gradient, as in section 4.3
    there; so V is never kept. Draws of dropout come from torch's global CPU generator, which checkpointing repeats.

    Attributes:
        settings: How the layer is trained.
        rank_dropout: Chance that an output channel goes without its change; the others are scaled by 1 / (1 - p).
        module_dropout: Chance that the layer goes without its change.
    """

    def __init__(
        self,
        base: nn.Module,
        settings: Settings,
        generator: torch.Generator,
        *,
        rank_dropout: float = 0.0,
        module_dropout: float = 0.0,
    ) -> None:
        super().__init__(base)
        self.settings = settings
        self.rank_dropout = rank_dropout
        self.module_dropout = module_dropout
        self._algorithm = ALGORITHMS[settings.algo]
        weight = self.base.weight
        made = self._algorithm.make(weight.shape, settings, generator)
        self._trained = nn.ParameterDict({name: factor.to(weight.device) for name, factor in made.items()})
        if settings.weight_decompose:
            self._trained[MAGNITUDE] = nn.Parameter(_column_norms(weight.float()))

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """Name to parameter, float32; with `weight_decompose` also `dora_scale`, (1, in[, 1, 1])."""
        return dict(self._trained.items())

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer and its change to x, (..., in) or (B, in, H, W), in the dtype of the frozen layer."""
        if not self.training or not (self.rank_dropout or self.module_dropout):
            return self._changed(x)
        y: Tensor = self.base(x)
        if self.module_dropout and torch.rand(()).item() < self.module_dropout:
            return y
        if not self.rank_dropout:
            return self._changed(x)
        keep = (torch.rand(len(self.base.weight)) >= self.rank_dropout) / (1 - self.rank_dropout)
        keep = keep.view(-1, *[1] * (self.base.weight.dim() - 2)).to(y)
        return y + (self._changed(x) - y) * keep

    def delta_weight(self) -> Tensor:
        """Compute W' - W, in the shape of W, float32."""
        weight = self.base.weight.float()
        change = self._algorithm.delta(weight, self.factors, self.settings)
        return (weight + change) * self._stretch() - weight if self.settings.weight_decompose else change

    def delta_bias(self) -> Tensor | None:
        """Give what is added to the frozen bias, (out,) float32, or None."""
        return self.factors.get("diff_b")

    @torch.no_grad()
    def tensors(self, *, as_diff: bool = False) -> dict[str, Tensor]:
        """Name the factors as files do.

        Args:
            as_diff: Give the whole difference instead.
        """
        if as_diff:
            bias = self.delta_bias()
            return {"diff": self.delta_weight()} | ({} if bias is None else {"diff_b": bias})
        factors: Mapping[str, Tensor] = {name: tensor for name, tensor in self.factors.items() if name != MAGNITUDE}
        named = self._algorithm.tensors(self.base.weight.float(), factors, self.settings)
        return named | {name: tensor for name, tensor in self.factors.items() if name == MAGNITUDE}

    def _changed(self, x: Tensor) -> Tensor:
        if self.settings.weight_decompose:
            stretch = self._stretch()
            x = x * (stretch if stretch.dim() == 4 else stretch[0]).to(x.dtype)
        return self._algorithm.forward(self.base, self.factors, self.settings, x)

    def _stretch(self) -> Tensor:
        """Compute m / |V|, (1, in[, 1, 1]); exactly 1 at the start."""
        with torch.no_grad():
            weight = self.base.weight.float()
            norms = _column_norms(weight + self._algorithm.delta(weight, self.factors, self.settings))
        stretch: Tensor = self.factors[MAGNITUDE] / norms
        return stretch


class NormLayer(WeightChange):
    """A frozen LayerNorm or GroupNorm with trained differences of weight and bias, in its place.

    Attributes:
        base: The norm, frozen.
    """

    base: nn.LayerNorm | nn.GroupNorm

    def __init__(self, base: nn.LayerNorm | nn.GroupNorm) -> None:
        super().__init__(base)
        zeros = torch.zeros_like(base.weight, dtype=torch.float32)
        self._trained = nn.ParameterDict({"w_norm": zeros, "b_norm": zeros.clone()})

    @property
    def factors(self) -> dict[str, nn.Parameter]:
        """`w_norm` and `b_norm`, (channels,) float32, zero at the start."""
        return dict(self._trained.items())

    def delta_weight(self) -> Tensor:
        """Give what is added to the frozen weight, (channels,) float32."""
        return self.factors["w_norm"]

    def delta_bias(self) -> Tensor:
        """Give what is added to the frozen bias, (channels,) float32."""
        return self.factors["b_norm"]

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, with the changed weight and bias."""
        factors = self.factors
        weight = (self.base.weight + factors["w_norm"]).to(x.dtype)
        bias = (self.base.bias + factors["b_norm"]).to(x.dtype)
        if isinstance(self.base, nn.GroupNorm):
            return F.group_norm(x, self.base.num_groups, weight, bias, self.base.eps)
        return F.layer_norm(x, self.base.normalized_shape, weight, bias, self.base.eps)

    def tensors(self, *, as_diff: bool = False) -> dict[str, Tensor]:
        """Name the differences as files do; there is one form only."""
        return {name: tensor.detach() for name, tensor in self.factors.items()}


def _column_norms(weight: Tensor) -> Tensor:
    """Give the norm of each input column over all else, (1, in[, 1, 1])."""
    dims = [dim for dim in range(weight.dim()) if dim != 1]
    norms: Tensor = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    return norms.clamp_min(torch.finfo(torch.float32).tiny)
