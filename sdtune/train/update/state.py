"""Optimizer state as named tensors plus JSON values, so that no pickle is ever written or read.

Values are numbers, truths, texts, null, lists of them; `{"tuple": [...]}` and `{"dict": {...}}` keep those types, and
`{"tensor": LABEL, "is_near": true}` stands for a tensor, on its parameter's device where it is near.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sdtune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

Json = dict[str, Any]
# What a group has from the options, of this run and not of the checkpoint.
_FROM_OPTIONS = {"params", "name", "lr", "weight_decay"}


def pack_optimizer(optimizer: Optimizer, names: Mapping[str, nn.Parameter]) -> tuple[dict[str, Tensor], Json]:
    """Split the state into tensors and JSON values.

    Args:
        optimizer: Its groups have a `name`.
        names: Name to parameter.

    Returns:
        Label to tensor, and `{"state": {PARAMETER: {KEY: value}}, "groups": {GROUP: {KEY: value}}}`. Of groups only
        what the optimizer itself has changed, e.g. its own step count.

    Raises:
        ConfigError: The optimizer keeps something else.
    """
    packer = _Packer(type(optimizer).__name__)
    name_of = {id(parameter): name for name, parameter in names.items()}
    state = {
        name_of[id(parameter)]: packer.pack_all(values, name_of[id(parameter)], parameter.device)
        for parameter, values in optimizer.state.items()
    }
    groups = {
        group["name"]: packer.pack_all(_own(group, optimizer.defaults), f"{group['name']}/", _device(group))
        for group in optimizer.param_groups
    }
    return packer.tensors, {"state": state, "groups": groups}


def unpack_optimizer(
    optimizer: Optimizer, names: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], values: Json
) -> None:
    """Put a packed state back; the reverse of `pack_optimizer`.

    The state goes in as it is: `load_state_dict` would change its dtypes.

    Raises:
        ModelError: The state is of other parameters or groups.
    """
    groups = {group["name"]: group for group in optimizer.param_groups}
    for what, saved, own in (("parameters", values["state"], names), ("groups", values["groups"], groups)):
        if strangers := sorted(set(saved) - set(own)):
            raise ModelError(
                f"checkpoint holds optimizer state of {len(strangers)} unknown {what}, first {strangers[0]}"
            )
    for name, state in values["state"].items():
        parameter = names[name]
        optimizer.state[parameter] = {key: _unpack(value, tensors, parameter.device) for key, value in state.items()}
    for name, state in values["groups"].items():
        group = groups[name]
        group.update({key: _unpack(value, tensors, _device(group)) for key, value in state.items()})


def _device(group: Mapping[str, Any]) -> torch.device:
    device: torch.device = group["params"][0].device
    return device


def _own(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Give what the optimizer itself keeps in a group: neither options nor what it began with."""
    return {
        key: value
        for key, value in group.items()
        if key not in _FROM_OPTIONS
        if isinstance(value, torch.Tensor) or key not in defaults or defaults[key] != value
    }


class _Packer:
    """Turns values into JSON, and keeps the tensors it meets by label."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self.tensors: dict[str, Tensor] = {}

    def pack_all(self, values: Mapping[str, Any], label: str, near: torch.device) -> Json:
        """Pack a mapping with text keys."""
        return {key: self._pack(value, f"{label}/{key}", near) for key, value in values.items()}

    def _pack(self, value: Any, label: str, near: torch.device) -> Any:
        match value:
            case torch.Tensor():
                self.tensors[label] = value.detach()
                return {"tensor": label, "is_near": value.device == near}
            case None | bool() | int() | float() | str():
                return value
            case list() | tuple():
                items = [self._pack(item, f"{label}/{number}", near) for number, item in enumerate(value)]
                return items if isinstance(value, list) else {"tuple": items}
            case dict() if all(isinstance(key, str) for key in value):
                return {"dict": self.pack_all(value, label, near)}
        raise ConfigError(
            f"train.optimizer.name: {self._owner} keeps a {type(value).__name__} ({label}), which cannot be saved",
            hint="choose another optimizer",
        )


def _unpack(value: Any, tensors: Mapping[str, Tensor], near: torch.device) -> Any:
    match value:
        case {"tensor": str(label), "is_near": is_near}:
            return tensors[label].to(near) if is_near else tensors[label]
        case {"tuple": [*items]}:
            return tuple(_unpack(item, tensors, near) for item in items)
        case {"dict": dict(items)}:
            return {key: _unpack(item, tensors, near) for key, item in items.items()}
        case [*items]:
            return [_unpack(item, tensors, near) for item in items]
    return value
