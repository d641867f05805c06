"""A file's effect on a base model, for as long as a block lasts; nothing of the model is changed for good.

A changed weight exists only while its own layer computes: the layer's hook makes it, the next hook puts the old one
back. So a file costs the memory of one layer, and the base is the same to the last bit afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sdtune.errors import is_out_of_memory
from sdtune.formats.consumers.reading import BaseView, NeverError, first_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from sdtune.formats.consumers.reading import Reading, Use
    from sdtune.models.base import DiffusionModel, Part


def view_of(model: DiffusionModel) -> BaseView:
    """Describe a base model by its loaded parts."""
    shapes = {
        f"{path}.{leaf}": tuple(parameter.shape)
        for path, module in named_layers(model)
        for leaf, parameter in module.named_parameters(recurse=False)
    }
    return BaseView(family=model.family, shapes=shapes)


def named_layers(model: DiffusionModel) -> Iterator[tuple[str, nn.Module]]:
    """Name the modules of the loaded parts as `Use.target` does."""
    parts: tuple[Part, ...] = ("unet", "vae", "text_encoder")
    for part in parts:
        if model.is_loaded(part):
            yield from model.layers(part)


def text_encoders(model: DiffusionModel) -> dict[str, nn.Module]:
    """Give the text encoders by diffusers' names; SDXL has two in its one part."""
    module = model.part("text_encoder")
    return dict(module.items()) if isinstance(module, nn.ModuleDict) else {"text_encoder": module}


@contextmanager
def applied(model: DiffusionModel, readings: Sequence[Reading]) -> Iterator[None]:
    """Let a base model answer with what a program makes of some files.

    What fails while it is computed is noted in the reading as skipped: programs catch it and go on without.
    """
    layers = dict(named_layers(model))
    by_layer: dict[str, list[tuple[Reading, Use]]] = defaultdict(list)
    for reading in readings:
        for use in reading.uses:
            by_layer[use.target.rpartition(".")[0]].append((reading, use))
    handles: list[Any] = []
    for path, uses in by_layer.items():
        if path in layers:
            swap = _Swap(uses)
            handles += swap.hook(layers[path])
    for reading in readings:
        handles += _hook_contexts(layers, reading)
    words = {word: encoders for reading in readings for word, encoders in reading.words.items()}
    if words:
        model.set_embeddings(_on_device(words, model.source.device))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if words:
            model.set_embeddings({})


def _on_device(words: dict[str, Any], device: torch.device) -> dict[str, dict[str, Tensor]]:
    return {word: {name: own.to(device) for name, own in encoders.items()} for word, encoders in words.items()}


def change_weight(reading: Reading, use: Use, weight: Tensor) -> Tensor | None:
    """Give the weight that a program makes of a base model's (float32); None: it fails, which the reading tells."""
    try:
        return use.change(weight)
    except NeverError as error:
        reading.unknown |= dict.fromkeys(use.keys, str(error))
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        reading.skip(use.keys, f"it cannot be applied: {first_lines(error)}")
    return None


class _Swap:
    """Gives a layer other weights while it computes."""

    def __init__(self, uses: Sequence[tuple[Reading, Use]]) -> None:
        self._uses = uses
        self._kept: dict[str, nn.Parameter] = {}

    def hook(self, layer: nn.Module) -> list[Any]:
        """Put the weights in before the layer, and take them out after it, also where it fails."""
        before = layer.register_forward_pre_hook(self._put)
        return [before, layer.register_forward_hook(self._restore, always_call=True)]

    def _put(self, layer: nn.Module, args: Any) -> None:
        for reading, use in self._uses:
            leaf = use.target.rpartition(".")[2]
            weight = layer.get_parameter(leaf)
            changed = change_weight(reading, use, weight.detach().float())
            if changed is None:
                continue
            self._kept.setdefault(leaf, weight)
            setattr(layer, leaf, nn.Parameter(changed.to(weight.dtype), requires_grad=False))

    def _restore(self, layer: nn.Module, args: Any, output: Any) -> None:
        for leaf, weight in self._kept.items():
            setattr(layer, leaf, weight)
        self._kept = {}


def _hook_contexts(layers: dict[str, nn.Module], reading: Reading) -> Iterator[Any]:
    """Change what keys and values are computed from, in every attention of a fitting width."""
    for path, layer in layers.items():
        side = {"to_k": 0, "to_v": 1}.get(path.rpartition(".")[2])
        width = layer.in_features if isinstance(layer, nn.Linear) else None
        if path.startswith("unet.") and side is not None and width is not None and width in reading.contexts:
            network = reading.contexts[width][side].to(layer.get_parameter("weight").device)
            yield layer.register_forward_pre_hook(_adding(network))


def _adding(network: nn.Module) -> Any:
    def change(layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        context = args[0]
        return (context + network(context.float()).to(context.dtype), *args[1:])

    return change
