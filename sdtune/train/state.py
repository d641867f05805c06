"""Optimizer state as named tensors plus JSON values, so that no pickle is ever written or read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

Json = dict[str, Any]


def pack_optimizer(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], Json]:
    """Split the state into tensors, `PARAMETER/KEY`, and JSON values under the same names."""
    name_of = {id(parameter): name for name, parameter in names.items()}
    tensors: dict[str, Tensor] = {}
    values: Json = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            label = f"{name_of[id(parameter)]}/{key}"
            if isinstance(value, torch.Tensor):
                tensors[label] = value.detach()
            else:
                values[label] = value
    return tensors, values


def unpack_optimizer(
    optimizer: Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], values: Json
) -> None:
    """Put a packed state back; the reverse of `pack_optimizer`.

    Raises:
        ModelError: The state is of other parameters.
    """
    state: dict[str, dict[str, Any]] = {}
    for label, value in [*tensors.items(), *values.items()]:
        name, key = label.rsplit("/", 1)
        state.setdefault(name, {})[key] = value
    if strangers := sorted(set(state) - set(names)):
        raise ModelError(
            f"checkpoint holds optimizer state of {len(strangers)} unknown parameters, first {strangers[0]}"
        )
    order = [name for group in _names_by_group(optimizer, names) for name in group]
    whole = optimizer.state_dict()
    whole["state"] = {index: state[name] for index, name in enumerate(order) if name in state}
    optimizer.load_state_dict(whole)


def _names_by_group(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> list[list[str]]:
    name_of = {id(parameter): name for name, parameter in names.items()}
    return [[name_of[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
