"""Weights as files make them, against those that were trained: exact in float32, layer by layer, whatever computes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.adapters import Adapter, Wrapper
from sdtune.errors import is_out_of_memory
from sdtune.formats.consumers.applying import named_layers
from sdtune.models.quantize import QuantizedLinear

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from sdtune.formats.consumers.reading import Change, Reading
    from sdtune.models.base import DiffusionModel

    Changes = Mapping[str, Change]


_LEAST = 2.0**-24  # float16's smallest number: biases that hardly learn, such as those of keys, change by less


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightError:
    """The layer that is furthest off.

    Attributes:
        target: Its weight, as `Use.target`.
        error: |found - wanted| over |wanted - base|, of Frobenius norms.
        is_wrong: It, or another one, is off by more than rounding.
    """

    target: str = ""
    error: float = 0.0
    is_wrong: bool = False


def trained_changes(model: DiffusionModel, *, is_whole: bool) -> dict[str, Change]:
    """Give the weights of a trained model, as changes of the base model's; what is not asked for costs nothing.

    Args:
        model: The model, in eval mode.
        is_whole: Give all weights; else those of layers with an adapter.

    Returns:
        Target to change. One that raises KeyError stands for a layer that a method replaced by one of its own kind.
    """
    found: dict[str, Change] = {}
    layers = dict(named_layers(model))
    inside = tuple(f"{path}." for path, layer in layers.items() if isinstance(layer, Wrapper))
    for path, layer in layers.items():
        holds_weight = "weight" in layer._parameters or isinstance(layer, QuantizedLinear)
        if isinstance(layer, Adapter):
            found |= {f"{path}.weight": _adapted(layer)}
            if layer.bias is not None:
                found |= {f"{path}.bias": _adapted_bias(layer)}
        elif not holds_weight:  # a block, which no file names, or a change that tells no weights
            found |= {f"{path}.{leaf}": _untold for leaf in ("weight", "bias")}
        elif is_whole and not path.startswith(inside):
            for leaf, parameter in layer.named_parameters(recurse=False):
                found[f"{path}.{leaf}"] = _whole(parameter)
    return found


def _adapted(layer: Adapter) -> Change:
    return lambda weight: layer.weight.float() + layer.delta_weight()


def _adapted_bias(layer: Adapter) -> Change:
    def change(bias: Tensor) -> Tensor:
        delta = layer.delta_bias()
        return bias if delta is None else bias + delta

    return change


def _untold(weight: Tensor) -> Tensor:
    raise KeyError("what stands in this layer's place does not tell its weight: answers alone are compared")


def _whole(parameter: nn.Parameter) -> Change:
    return lambda weight: parameter.float()


def file_changes(readings: Sequence[Reading]) -> dict[str, Change]:
    """Give the weights that a program makes of files, as changes of the base model's, one file after the other."""
    by_target: dict[str, list[Change]] = defaultdict(list)
    for reading in readings:
        for use in reading.uses:
            by_target[use.target].append(use.change)
    return {target: _in_turn(changes) for target, changes in by_target.items()}


def _in_turn(changes: Sequence[Change]) -> Change:
    def change(weight: Tensor) -> Tensor:
        for each in changes:
            weight = each(weight)
        return weight

    return change


@torch.no_grad()
def compare_weights(
    base: DiffusionModel, found: Changes, wanted: Changes, *, tolerance: float, rounding: float
) -> WeightError | None:
    """Compare weight by weight; what cannot be computed is passed over, since readings tell it.

    Args:
        base: The base model.
        found: What a program makes of the files.
        wanted: What is right.
        tolerance: Error over change that is rounding.
        rounding: Error over weight that is rounding.

    Returns:
        The greatest error among weights whose change stands out of rounding; None: there is nothing to compare.
    """
    worst, is_wrong, count = WeightError(), False, 0
    for target, weight, roundoff in _weights(base, found.keys() | wanted.keys()):
        try:
            right = wanted[target](weight) if target in wanted else weight
            error = float((found[target](weight) - right if target in found else weight - right).norm())
        except (RuntimeError, ValueError, KeyError, IndexError) as failure:
            if is_out_of_memory(failure):
                raise
            continue
        change = float((right - weight).norm())
        # a weight that nobody trained is in the file as stored, and in the models in fewer bits
        share = rounding if change else max(rounding, roundoff)
        unseen = share * float(weight.norm()) + _LEAST * weight.numel() ** 0.5
        count += 1
        is_bad = not error <= tolerance * change + unseen
        if is_bad or change > unseen:
            relative = error / change if change else float(error > 0)
            if (is_bad, relative) > (is_wrong, worst.error):
                worst = WeightError(target=target, error=relative)
        is_wrong |= is_bad
    return WeightError(target=worst.target, error=worst.error, is_wrong=is_wrong) if count else None


def _weights(base: DiffusionModel, targets: Collection[str]) -> Iterator[tuple[str, Tensor, float]]:
    """Give the float32 value of each weight, and the step of what it is held in."""
    for path, layer in named_layers(base):
        for leaf, parameter in layer.named_parameters(recurse=False):
            if (target := f"{path}.{leaf}") in targets:
                yield target, parameter.detach().float(), torch.finfo(parameter.dtype).eps
