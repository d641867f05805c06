"""What stands in the place of `to_k` and `to_v`: networks change the context, the layer stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sdtune.api import Wrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from sdtune_hypernetwork.network import ContextNetwork


@dataclass(frozen=True, slots=True)
class Change:
    """A network at a strength: x + strength * N(x)."""

    network: ContextNetwork
    strength: float

    def __call__(self, x: Tensor) -> Tensor:
        """Change a context (B, L, D)."""
        return x + self.strength * cast("Tensor", self.network(x))


class ContextLayer(Wrapper):
    """y = W c_n(... c_1(x)) + b, with changes c_i of the context.

    Networks are shared by all layers of one width.

    Args:
        base: `to_k` or `to_v`.
        changes: In the order they act.
        trained: The network that learns, when it is among them: it goes to and fro between training and evaluation with
            the model; the others stay as they are.
    """

    def __init__(self, base: nn.Module, changes: Sequence[Change], trained: ContextNetwork | None = None) -> None:
        super().__init__(base)
        self.trained = trained
        self._changes = tuple(changes)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the changes and the layer to the context x (B, L, D)."""
        for change in self._changes:
            x = change(x)
        return cast("Tensor", self.base(x))
