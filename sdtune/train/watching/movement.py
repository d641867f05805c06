"""How far trained values move, and which layers get no gradient: numbers kept on the device until they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from sdtune.train.method import ParamGroup

_SAMPLES = 1024  # of each parameter, evenly spaced: a copy of all values would double a large model


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Layers that did not learn in any look of a while.

    Attributes:
        layers: How many are trained.
        without_gradient: Those whose gradients were exactly zero, or not there.
        unmoved: Those with gradients whose values stayed what they were.
    """

    layers: int
    without_gradient: tuple[str, ...]
    unmoved: tuple[str, ...]


class Movement:
    """Looks at steps: call `begin` before one, `see_gradients` before its update, and `end` when it was applied.

    Attributes:
        looks: Steps looked at since `standstill` was last asked.
    """

    def __init__(self, groups: Sequence[ParamGroup]) -> None:
        self._groups = [_GroupMovement(group) for group in groups]
        self._ratios: dict[str, Tensor] = {}
        self.looks = 0

    def begin(self) -> None:
        """Note values."""
        for group in self._groups:
            group.begin()

    def see_gradients(self) -> None:
        """Note which gradients are zero."""
        for group in self._groups:
            group.see_gradients()

    def end(self) -> None:
        """Compare values with those noted."""
        self._ratios = {group.name: group.end() for group in self._groups}
        self.looks += 1

    def read_ratios(self) -> dict[str, float]:
        """Give mean |dW| / mean |W| of each group in the last look, once; empty when there was none since."""
        ratios, self._ratios = self._ratios, {}
        return {name: float(ratio) for name, ratio in ratios.items()}

    def standstill(self) -> Standstill:
        """Tell which layers stood still in all looks, and begin anew."""
        self.looks = 0
        found = [group.read() for group in self._groups]
        return Standstill(
            layers=sum(one.layers for one in found),
            without_gradient=tuple(name for one in found for name in one.without_gradient),
            unmoved=tuple(name for one in found for name in one.unmoved),
        )


class _GroupMovement:
    """The same of one group; a flag for each parameter, on the device."""

    def __init__(self, group: ParamGroup) -> None:
        self.name = group.name
        self._names = tuple(group.params)
        self._parameters = list(group.params.values())
        sizes = [_sample(parameter).numel() for parameter in self._parameters]
        device = self._parameters[0].device
        owners = [torch.full((size,), number) for number, size in enumerate(sizes)]
        self._owners = torch.cat(owners).to(device)
        self._before = torch.empty(0, device=device)
        self._gradients = self._before
        self._clear()

    def begin(self) -> None:
        """Note values."""
        self._before = self._sampled(_sample)

    def see_gradients(self) -> None:
        """Note which gradients are zero, as a whole and at the samples."""
        if all(parameter.grad is None for parameter in self._parameters):
            self._gradients = torch.zeros_like(self._before)
            return
        bounds = torch.stack([bound for parameter in self._parameters for bound in _bounds(parameter)])
        self._has_gradient |= (bounds != 0).view(-1, 2).any(1)
        self._gradients = self._sampled(_sampled_gradient)

    def end(self) -> Tensor:
        """Compare values with those noted; give mean |dW| / mean |W|, a scalar."""
        after = self._sampled(_sample)
        change = (after - self._before).abs_()
        self._was_pushed |= self._any(self._gradients != 0)
        self._has_moved |= self._any(change != 0)
        self._before = self._gradients = self._before[:0]
        return change.mean() / after.abs().mean().clamp_min(torch.finfo(torch.float32).tiny)

    def read(self) -> Standstill:
        """Tell which layers stood still, and forget."""
        flags = torch.stack([self._has_gradient, self._was_pushed, self._has_moved]).tolist()
        layers: dict[str, list[tuple[bool, bool, bool]]] = {}
        for name, *own in zip(self._names, *flags, strict=True):
            layers.setdefault(name.rpartition(".")[0], []).append((own[0], own[1], own[2]))
        self._clear()
        return Standstill(
            layers=len(layers),
            without_gradient=tuple(name for name, own in layers.items() if not any(has for has, _, _ in own)),
            unmoved=tuple(
                name
                for name, own in layers.items()
                if any(pushed for _, pushed, _ in own) and not any(moved for _, _, moved in own)
            ),
        )

    def _clear(self) -> None:
        none = torch.zeros(len(self._parameters), dtype=torch.bool, device=self._owners.device)
        self._has_gradient, self._was_pushed, self._has_moved = none, none.clone(), none.clone()

    def _any(self, flags: Tensor) -> Tensor:
        """Tell for each parameter whether a flag of its samples is true."""
        found = torch.zeros(len(self._parameters), dtype=torch.int32, device=flags.device)
        return found.index_add_(0, self._owners, flags.int()) > 0

    @torch.no_grad()
    def _sampled(self, pick: Callable[[nn.Parameter], Tensor]) -> Tensor:
        return torch.cat([pick(parameter).float() for parameter in self._parameters])


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLES)]


def _sampled_gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(_sample(parameter)) if parameter.grad is None else _sample(parameter.grad)


def _bounds(parameter: nn.Parameter) -> tuple[Tensor, Tensor]:
    """Give the lowest and highest element of a gradient; ones for a frozen parameter, since nobody misses its own."""
    if parameter.grad is None:
        bound = torch.full((), float(not parameter.requires_grad), device=parameter.device)
        return bound, bound
    lowest, highest = torch.aminmax(parameter.grad)  # on a CPU an infinity norm takes ten times as long
    return lowest.float(), highest.float()
