"""webui's `.pt`: a dictionary with widths as keys, pairs of state dictionaries as values, and facts by name."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sdtune.api import ConfigError, ModelError, PickledArtifact, encode_pickled
from sdtune_hypernetwork.config import ACTIVATIONS
from sdtune_hypernetwork.network import SIDES, ContextNetwork, Form, Hypernetwork

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMFYUI_ACTIVATIONS = ("linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish")
_OLD_DROPOUT = 0.3
_HASH_LENGTH = 10
_GIVE = "give a hypernetwork of a webui"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file tells beside its weights.

    Attributes:
        name: webui's name.
        step: Steps it was trained.
        init: How its weights began.
        base_name: The model it was trained on; empty when not told.
        base_hash: Its short hash; empty when not told.
        info: Any text.
    """

    name: str
    step: int = 0
    init: str = "Normal"
    base_name: str = ""
    base_hash: str = ""
    info: str = ""


def make_artifact(
    hypernetwork: Hypernetwork, facts: Facts, *, stem: str, keep_dropout: bool = False
) -> PickledArtifact:
    """Give the `.pt` file, float32, every field written since readers differ in their defaults.

    Args:
        hypernetwork: The networks.
        facts: What the file tells.
        stem: File name without suffix.
        keep_dropout: With members and fields for dropout, as webui's own; else the same network for use.
    """
    form = hypernetwork.form if keep_dropout else hypernetwork.form.without_dropout
    content: dict[Any, Any] = {
        size: tuple(_state(hypernetwork.network(size, side), keep_dropout=keep_dropout) for side in SIDES)
        for size in hypernetwork.sizes
    }
    content |= {
        "step": facts.step,
        "name": facts.name,
        "layer_structure": list(form.structure),
        "activation_func": form.activation,
        "is_layer_norm": form.layer_norm,
        "weight_initialization": facts.init,
        "sd_checkpoint": facts.base_hash[:_HASH_LENGTH] or None,
        "sd_checkpoint_name": facts.base_name or None,
        "activate_output": form.activate_output,
        "use_dropout": any(form.dropout),
        "dropout_structure": list(form.dropout),
        "last_layer_dropout": form.dropout[-2] != 0,
        "optional_info": facts.info or None,
    }
    return PickledArtifact(kind="hypernetwork", stem=stem, content=content)


def make_sidecar(artifact: PickledArtifact, optimizer: str, state: Mapping[str, Any]) -> PickledArtifact:
    """Give `NAME.pt.optim`, with which webui's Train tab goes on; it stays in the run's folder.

    Args:
        artifact: The file it belongs to; webui takes the sidecar only beside that very file.
        optimizer: Class of `torch.optim`, e.g. `AdamW`.
        state: Its state; parameters in the order of the file: by size, k before v.
    """
    digest = hashlib.sha256(encode_pickled(artifact.content)).hexdigest()
    content = {"optimizer_name": optimizer, "hash": digest[:_HASH_LENGTH], "optimizer_state_dict": state}
    return replace(artifact, content=content, suffix=".pt.optim", is_delivered=False)


def _state(network: ContextNetwork, *, keep_dropout: bool) -> OrderedDict[str, Tensor]:
    """Name the tensors by the place of their layer, counted with dropout or without."""
    members = [member for member in network.linear if keep_dropout or not isinstance(member, nn.Dropout)]
    return OrderedDict(
        (f"linear.{index}.{name}", tensor.detach().float())
        for index, member in enumerate(members)
        for name, tensor in member.state_dict().items()
    )


def read_hypernetwork(path: Path) -> tuple[Hypernetwork, Facts]:
    """Read a `.pt` file, webui's or older ones, with webui's defaults for what it does not tell.

    Raises:
        ConfigError: There is no such file.
        ModelError: It is no hypernetwork, or its tensors are not those of the networks it tells of.
    """
    content = _load(path)
    sizes = [key for key in content if isinstance(key, int)]
    if not sizes:
        raise ModelError("not a hypernetwork: it holds no networks", where=str(path), hint=_GIVE)
    try:
        hypernetwork = Hypernetwork(sizes, _read_form(content))
        for size in sizes:
            for side, state in zip(SIDES, content[size], strict=True):
                hypernetwork.network(size, side).load_state_dict(_current_names(state))
    except (ConfigError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"not a readable hypernetwork: {_first_line(error)}", where=str(path)) from error
    return hypernetwork, _read_facts(content, path)


def _load(path: Path) -> Mapping[Any, Any]:
    if not path.is_file():
        raise ConfigError(f"no file {path}", hint="give a hypernetwork's .pt file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ModelError("not a readable .pt file", where=str(path), hint=_GIVE) from error
    if not isinstance(content, dict):
        raise ModelError("not a hypernetwork: it holds no dictionary", where=str(path))
    return content


def _read_form(content: Mapping[Any, Any]) -> Form:
    structure = tuple(content.get("layer_structure") or (1, 2, 1))
    activation = content.get("activation_func") or "linear"
    if activation not in ACTIVATIONS:
        raise ValueError(f"its activation is {activation!r}")
    form = Form(
        structure=structure,
        activation=activation,
        activate_output=content.get("activate_output", True),
        layer_norm=content.get("is_layer_norm", False),
        dropout=tuple(content.get("dropout_structure") or _old_dropout(content, len(structure))),
    )
    if len(form.dropout) != len(structure):
        raise ValueError("its dropout_structure is not as long as its layer_structure")
    return form


def _old_dropout(content: Mapping[Any, Any], length: int) -> tuple[float, ...]:
    """Follow the rule from before files told each layer's dropout."""
    chances = [0.0] * length
    if content.get("use_dropout", False):
        chances[1:-1] = [_OLD_DROPOUT] * (length - 2)
        if not content.get("last_layer_dropout", False):
            chances[-2] = 0
    return tuple(chances)


def _current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename `linear1` and `linear2` of the first files."""
    old = {"linear1": "linear.0", "linear2": "linear.1"}
    parts = {name: name.partition(".") for name in state}
    return {f"{old.get(head, head)}.{tail}": state[name] for name, (head, _, tail) in parts.items()}


def _read_facts(content: Mapping[Any, Any], path: Path) -> Facts:
    return Facts(
        name=content.get("name") or path.stem,
        step=int(content.get("step") or 0),
        init=content.get("weight_initialization") or "Normal",
        base_name=content.get("sd_checkpoint_name") or "",
        base_hash=content.get("sd_checkpoint") or "",
        info=content.get("optional_info") or "",
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def strip_dropout(hypernetwork: Hypernetwork) -> Hypernetwork:
    """Give a copy for use: without dropout, frozen, in evaluation."""
    copy = Hypernetwork(hypernetwork.sizes, hypernetwork.form.without_dropout)
    for size in copy.sizes:
        for side in SIDES:
            copy.network(size, side).load_state_dict(_state(hypernetwork.network(size, side), keep_dropout=False))
    return copy.requires_grad_(False).eval()


def explain_comfyui(form: Form) -> str:
    """Say why ComfyUI does not compute what webui computes; empty when it does."""
    if form.activation not in COMFYUI_ACTIVATIONS:
        return f"ComfyUI has no activation {form.activation!r} and will not load the file"
    if form.layer_norm and form.activation != "linear" and not form.activate_output:
        return "with layer_norm ComfyUI also activates the output; set activate_output, or leave out layer_norm"
    if any(form.dropout):
        return "ComfyUI leaves dropout on, so its pictures would be random; leave out export_dropout"
    return ""
