"""What every adapter method needs: picking layers, and putting adapters in their place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from sdtune.config.targets import TargetRule
from sdtune.errors import ConfigError, Problems
from sdtune.models.quantize import QuantizedLinear

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune.models.base import DiffusionModel, Target

Rule = TypeVar("Rule", bound=TargetRule)


class Wrapper(nn.Module):
    """A module standing in the place of a layer, and looking like it.

    Attributes:
        base: The layer.
    """

    base: nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm | Wrapper

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm | Wrapper):
            raise TypeError(f"nothing can stand in the place of a {type(base).__name__}")
        self.base = base

    @property
    def weight(self) -> Tensor:
        """The layer's weight: libraries read dtype and device of a layer from it."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The layer's bias."""
        return self.base.bias


class WeightChange(Wrapper, ABC):
    """A trained change of a frozen layer, standing in its place, that tells which weight and bias it makes.

    Attributes:
        base: The layer, frozen.

    Raises:
        ConfigError: Another method stands in the layer's place already.
    """

    base: nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        if isinstance(base, Wrapper):
            raise ConfigError(
                "two methods act on the same layers",
                where="method",
                hint="choose one, or name the one that changes weights first",
            )
        base.requires_grad_(False)

    @abstractmethod
    def delta_weight(self) -> Tensor:
        """Compute what is added to the frozen weight: its shape, float32."""

    def delta_bias(self) -> Tensor | None:
        """Compute what is added to the frozen bias, (out,) float32; the default is None, nothing."""
        return None


class Adapter(WeightChange):
    """A trained change of a frozen Linear or Conv2d, standing in its place.

    Attributes:
        base: The layer, frozen.

    Raises:
        ConfigError: Another method stands in the layer's place already.
    """

    base: nn.Linear | nn.Conv2d

    def __init__(self, base: nn.Module) -> None:
        if not isinstance(base, nn.Linear | nn.Conv2d | Wrapper):
            raise TypeError(f"an adapter acts on a Linear or a Conv2d, not on {type(base).__name__}")
        if isinstance(base, nn.Conv2d) and not (base.groups == 1 and base.padding_mode == "zeros"):
            raise TypeError("an adapter acts on convolutions with one group, padded by zeros")
        super().__init__(base)


def match_targets(targets: Iterable[Target], rules: Sequence[Rule]) -> list[tuple[Target, Rule | None]]:
    """Pair every target that an answer depends on with the last rule that matches it, or None.

    Raises:
        ConfigError: A rule matches no target.
    """
    targets = [target for target in targets if not target.is_idle]
    paths = [target.path for target in targets]
    problems = Problems(ConfigError)
    for rule in rules:
        if not any(rule.matches(path) for path in paths):
            near = get_close_matches(rule.match, paths, n=3, cutoff=0.3) or paths[:3]
            problems.add(f"the pattern {rule.match!r} matches no layer", hint=f"near names: {', '.join(near)}")
    problems.raise_if_any()
    return [(target, next((rule for rule in reversed(rules) if rule.matches(target.path)), None)) for target in targets]


def attach_adapters(model: DiffusionModel, adapters: Mapping[str, Adapter]) -> None:
    """Put adapters in the place of the layers they wrap.

    Args:
        model: The model.
        adapters: Target path to adapter.
    """
    for path, adapter in adapters.items():
        model.replace(path, adapter)


def detach_adapters(model: DiffusionModel, adapters: Mapping[str, Adapter]) -> None:
    """Put the frozen layers back in their place."""
    for path, adapter in adapters.items():
        model.replace(path, adapter.base)


@torch.no_grad()
def merge_adapters(model: DiffusionModel, adapters: Mapping[str, Adapter]) -> None:
    """Add what adapters learned to the frozen weights (summed in float32), and put the layers back.

    Raises:
        TypeError: A frozen weight is held in few bits, and can take no change.
    """
    for adapter in adapters.values():
        if isinstance(adapter.base, QuantizedLinear):
            raise TypeError("merge into a model that is opened without model.quantize")
        adapter.weight.copy_(adapter.weight.float() + adapter.delta_weight())
        delta_bias = adapter.delta_bias()
        if adapter.bias is not None and delta_bias is not None:
            adapter.bias.copy_(adapter.bias.float() + delta_bias)
    detach_adapters(model, adapters)
