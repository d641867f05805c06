"""What an optimizer keeps for each parameter, found by letting it do one step on small ones."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdtune.config.optimizers import find_entry
from sdtune.errors import ConfigError
from sdtune.train.update.optimizers import build_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.config.train import TrainOptions
    from sdtune.train.method import ParamGroup

    Shape = tuple[int, ...]

_EIGHT_BIT_FROM = 4096  # numbers in a parameter; smaller ones have states of 32 bits in 8-bit optimizers too
# sides of small parameters, all different, below and from that number on; two of each, to tell tables from the rest
_BELOW = ((7, 5, 3, 2), (11, 13, 3, 5))
_FROM = ((67, 71, 3, 5), (73, 79, 7, 2))
_VECTORS = ((521, 1031), (5003, 6007))


def state_bytes(groups: Sequence[ParamGroup], train: TrainOptions) -> int:
    """Tell how large the optimizer's state will be, e.g. 8 bytes for each element with AdamW.

    Args:
        groups: What is trained.
        train: The optimizer's options.

    Returns:
        Bytes; 0 where the optimizer does not take such parameters.
    """
    shapes = [tuple(parameter.shape) for group in groups for parameter in group.params.values()]
    pairs = {kind: _probe_shapes(*kind) for kind in {_kind(shape) for shape in shapes}}
    try:
        kept = _step(groups[0], [shape for pair in pairs.values() for shape in pair], train)
    except ConfigError:  # told when training begins
        return 0
    is_halved = train.weights == "bf16" and not find_entry(train.optimizer.name).has_own_state
    pieces = {kind: _pieces(*pair, kept) for kind, pair in pairs.items()}
    return sum(piece.size(shape, is_halved=is_halved) for shape in shapes for piece in pieces[_kind(shape)])


def _kind(shape: Shape) -> tuple[int, bool]:
    return len(shape), math.prod(shape) >= _EIGHT_BIT_FROM


def _probe_shapes(rank: int, is_large: bool) -> tuple[Shape, Shape]:
    if rank == 1:
        shorter, longer = _VECTORS[is_large]
        return (shorter,), (longer,)
    first, second = _FROM if is_large else _BELOW
    return first[:rank], second[:rank]


def _step(group: ParamGroup, shapes: Sequence[Shape], train: TrainOptions) -> dict[Shape, list[Tensor]]:
    """Do one step; give the tensors kept for a probe of each shape."""
    probes = {shape: nn.Parameter(torch.full(shape, 0.5)) for shape in shapes}
    for probe in probes.values():
        probe.grad = torch.ones_like(probe)
    params = {str(shape): probe for shape, probe in probes.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = build_optimizer([replace(group, params=params)], train)
        optimizer.step()
    return {shape: list(_tensors(optimizer.state.get(probe, {}))) for shape, probe in probes.items()}


def _tensors(state: object) -> Iterator[Tensor]:
    match state:
        case torch.Tensor():
            yield state
        case dict():
            for value in state.values():
                yield from _tensors(value)
        case list() | tuple():
            for value in state:
                yield from _tensors(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """One tensor kept for a parameter.

    Attributes:
        probe: Shape of the small parameter it was seen at.
        seen: Its own shape there.
        itemsize: Bytes of a number.
        is_table: It has the same size for every parameter.
        is_float32: Its numbers are.
    """

    probe: Shape
    seen: Shape
    itemsize: int
    is_table: bool
    is_float32: bool

    def size(self, shape: Shape, *, is_halved: bool) -> int:
        """Give its bytes for a parameter of another shape: side by side where its sides are the probe's."""
        sides = dict(zip(self.probe, shape, strict=True))
        if self.is_table:
            return math.prod(self.seen) * self.itemsize
        if all(side in sides or side == 1 for side in self.seen):
            count = math.prod(sides.get(side, 1) for side in self.seen)
        else:
            count = math.ceil(math.prod(self.seen) * math.prod(shape) / math.prod(self.probe))
        return count * (2 if is_halved and self.is_float32 and self.seen == self.probe else self.itemsize)


def _pieces(first: Shape, second: Shape, kept: Mapping[Shape, list[Tensor]]) -> list[_Piece]:
    return [
        _Piece(
            probe=first,
            seen=tuple(tensor.shape),
            itemsize=tensor.itemsize,
            is_table=tensor.shape == other.shape,
            is_float32=tensor.dtype == torch.float32,
        )
        for tensor, other in zip(kept[first], kept[second], strict=True)
    ]
