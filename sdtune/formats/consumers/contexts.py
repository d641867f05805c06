"""Hypernetworks: networks before keys and values, built from the fields of a file as each program builds them.

A1111: `modules/hypernetworks/hypernetwork.py`; ComfyUI: `comfy_extras/nodes_hypernetwork.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdtune.formats.consumers.reading import NeverError, Reading, first_lines, plural

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView

State = Mapping[str, "Tensor"]
Builder = Callable[[int, Mapping[Any, Any], State], nn.Module]
_COMFYUI_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "linear": nn.Identity,
    "relu": nn.ReLU,
    "leakyrelu": nn.LeakyReLU,
    "elu": nn.ELU,
    "swish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softsign": nn.Softsign,
    "mish": nn.Mish,
}
_OVER_BATCH = {"softmax": nn.Softmax, "softmin": nn.Softmin, "logsoftmax": nn.LogSoftmax}
_OLD_DROPOUT = 0.3


def read_networks(content: Mapping[Any, Any], view: BaseView, build: Builder) -> Reading:
    """Build the networks of a file; those for contexts the model has not are passed over."""
    reading = Reading()
    widths = {view.shapes[f"unet.{layer}.weight"][1] for layer in view.of("unet") if layer.endswith((".to_k", ".to_v"))}
    found: dict[int, tuple[nn.Module, nn.Module]] = {}
    for width in (key for key in content if isinstance(key, int)):
        keys = [f"{width}.{side}.{name}" for side, state in zip("kv", content[width], strict=False) for name in state]
        if width not in widths:
            reading.skip(keys, f"the model has no context of width {width}")
            continue
        try:
            first, second = (build(width, content, state).eval() for state in content[width])
            for network in (first, second):  # members of wrong widths are built all the same, and fail in every picture
                network(torch.zeros(1, width))
        except NeverError as error:
            reading.unsupported = str(error)
            return reading
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            reading.refused = f"width {width}: {first_lines(error)}"
            return reading
        found[width] = (first, second)
        reading.used |= set(keys)
    if not found:
        reading.refused = f"none of its {plural(len(reading.skipped), 'tensor')} fits the model"
    reading.contexts = found
    return reading


def webui_network(width: int, content: Mapping[Any, Any], state: State) -> nn.Module:
    """Build a network as A1111 does, with its defaults for what the file does not tell."""
    network = nn.ModuleDict({"linear": nn.Sequential(*_webui_members(width, content))})
    old = {"linear1": "linear.0", "linear2": "linear.1"}
    network.load_state_dict({f"{old.get(n.split('.')[0], 'linear')}.{n.split('.', 1)[1]}": t for n, t in state.items()})
    return network["linear"].float()


def _webui_members(width: int, content: Mapping[Any, Any]) -> Iterator[nn.Module]:
    structure = content.get("layer_structure") or [1, 2, 1]
    activation, last = content.get("activation_func") or "linear", len(structure) - 2
    dropouts = _webui_dropouts(content, len(structure))
    for index, (before, after) in enumerate(pairwise(structure)):
        yield nn.Linear(int(width * before), int(width * after))
        if activation != "linear" and (index < last or content.get("activate_output", True)):
            yield _webui_activation(activation)
        if content.get("is_layer_norm", False):
            yield nn.LayerNorm(int(width * after))
        if dropouts[index + 1] > 0:
            yield nn.Dropout(dropouts[index + 1])


def _webui_activation(name: str) -> nn.Module:
    if name == "swish":
        return nn.Hardswish()
    if name in _OVER_BATCH:  # without a dimension these take the first of three, and warn
        return _OVER_BATCH[name](dim=0)
    classes = {key.lower(): value for key, value in vars(nn.modules.activation).items() if isinstance(value, type)}
    if name not in classes:
        raise ValueError(f"there is no activation {name!r}")
    made: nn.Module = classes[name]()
    return made


def _webui_dropouts(content: Mapping[Any, Any], length: int) -> list[float]:
    given = content.get("dropout_structure")
    if given is not None:
        return list(given)
    chances = [0.0] * length
    if content.get("use_dropout", False):
        chances[1:-1] = [_OLD_DROPOUT] * (length - 2)
        if not content.get("last_layer_dropout", False):
            chances[-2] = 0.0
    return chances


def comfyui_weakness(content: Mapping[Any, Any]) -> str:
    """Tell why ComfyUI computes something else with networks of this form; empty when it does not."""
    if content.get("use_dropout", False):
        return "it never turns dropout off"
    is_silent = not content.get("activate_output", True) and (content.get("activation_func") or "linear") != "linear"
    if content.get("is_layer_norm", False) and is_silent:
        return "behind a last LayerNorm it does not find the output layer, and activates it"
    return ""


def comfyui_network(width: int, content: Mapping[Any, Any], state: State) -> nn.Module:
    """Build a network as ComfyUI does: from tensors in their order; a last LayerNorm hides the last linear layer."""
    name = content.get("activation_func") or "linear"
    if name not in _COMFYUI_ACTIVATIONS:
        raise NeverError(f"it has no activation {name!r}")
    members: list[nn.Module] = []
    layers = [key.removesuffix(".weight") for key in state if key.endswith(".weight")]
    for place, layer in enumerate(layers):
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        member = nn.LayerNorm(len(weight)) if weight.dim() == 1 else nn.Linear(weight.shape[1], weight.shape[0])
        member.load_state_dict({"weight": weight, "bias": bias})
        members.append(member)
        is_active = place < len(layers) - 1 or content.get("activate_output", False)
        if weight.dim() == 2 and is_active:
            members.append(_COMFYUI_ACTIVATIONS[name]())
        if weight.dim() == 2 and content.get("use_dropout", False) and place < len(layers) - 1:
            members.append(_LastingDropout(_OLD_DROPOUT))
    return nn.Sequential(*members).float()


class _LastingDropout(nn.Module):
    """Dropout that evaluation does not turn off: ComfyUI never turns it off either."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self._chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements, whatever the mode."""
        return torch.dropout(x, self._chance, True)
