"""What an optimizer keeps for each parameter, found by letting it do one step on small ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdtune.errors import ConfigError
from sdtune.train.optimizers import build_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.config.train import TrainOptions
    from sdtune.train.method import ParamGroup

_SIDES = (521, 523, 3, 5)  # of the small ones, all different; 8-bit optimizers have 32 below 4,096 elements


def state_bytes(groups: Sequence[ParamGroup], train: TrainOptions) -> int:
    """Tell how large the optimizer's state will be, e.g. 8 bytes for each element with AdamW.

    Args:
        groups: What is trained.
        train: The optimizer's options.

    Returns:
        Bytes; 0 where the optimizer does not take such parameters.
    """
    shapes = [tuple(parameter.shape) for group in groups for parameter in group.params.values()]
    probes = {rank: nn.Parameter(torch.full(_SIDES[:rank], 0.5)) for rank in {len(shape) for shape in shapes}}
    try:
        states = _step(groups[0], probes, train)
    except ConfigError:  # told when training begins
        return 0
    return sum(
        _size(tensor, tuple(probes[len(shape)].shape), shape) for shape in shapes for tensor in states[len(shape)]
    )


def _step(group: ParamGroup, probes: Mapping[int, nn.Parameter], train: TrainOptions) -> dict[int, list[Tensor]]:
    """Do one step; give the tensors kept for each probe."""
    for probe in probes.values():
        probe.grad = torch.ones_like(probe)
    params = {str(rank): probe for rank, probe in probes.items()}
    optimizer = build_optimizer([replace(group, params=params)], train)
    optimizer.step()
    return {rank: list(_tensors(optimizer.state.get(probe, {}))) for rank, probe in probes.items()}


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


def _size(tensor: Tensor, probe: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Carry a tensor's size over to a parameter of another shape: side by side where its sides are the probe's."""
    sides = dict(zip(probe, shape, strict=True))
    if all(side in sides or side == 1 for side in tensor.shape):
        count = math.prod(sides.get(side, 1) for side in tensor.shape)
    else:
        count = math.ceil(tensor.numel() * math.prod(shape) / math.prod(probe))
    return count * tensor.itemsize
