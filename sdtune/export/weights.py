"""Weights as files make them, against those that were trained: exact in float32, layer by layer, whatever computes."""

from __future__ import annotations

from collections import defaultdict
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdtune.adapters import WeightChange, Wrapper
from sdtune.errors import is_out_of_memory
from sdtune.formats.consumers.applying import applied, named_layers
from sdtune.formats.consumers.table import DEFINITION
from sdtune.models.quantize import QuantizedLinear
from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView, Change, File, Reading
    from sdtune.models.base import DiffusionModel

    Changes = Mapping[str, Change]


_TOLERANCE = (
    0.02  # of a change; diffusers holds factors in the model's dtype, and is off by 3e-3 where that is bfloat16
)
_ROUNDINGS = 2.0  # an error may be so many times what rounding each number of the file does, every one by half a step
_COMPUTED = 2.0**-20  # of a weight: what sums in float32, in another order, are off by; measured 2e-8 to 2e-7


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What files must make of the base model's layers.

    Attributes:
        changes: Weight, as `Use.target`, to what becomes of it.
        layers: Path to what stands in a layer's place and is no weight, such as a network before it.
    """

    changes: Changes
    layers: Mapping[str, nn.Module] = field(default_factory=dict)


def trained_layers(model: DiffusionModel, *, is_whole: bool) -> Trained:
    """Give the layers of a trained model; what is not asked for costs nothing.

    Args:
        model: The model, in eval mode.
        is_whole: Give all weights; else those of layers with an adapter.

    Returns:
        The layers. A change that raises KeyError stands for a layer that a method replaced by one of its own kind.
    """
    found: dict[str, Change] = {}
    replaced: dict[str, nn.Module] = {}
    layers = dict(named_layers(model))
    inside = tuple(f"{path}." for path, layer in layers.items() if isinstance(layer, Wrapper))
    for path, layer in layers.items():
        holds_weight = "weight" in layer._parameters or isinstance(layer, QuantizedLinear)
        if isinstance(layer, WeightChange):
            found |= {f"{path}.weight": _adapted(layer)}
            if layer.bias is not None:
                found |= {f"{path}.bias": _adapted_bias(layer)}
        elif not holds_weight:  # a block, which no file names, or a change that tells no weights
            found |= {f"{path}.{leaf}": _untold for leaf in ("weight", "bias")}
            replaced |= {path: layer} if isinstance(layer, Wrapper) else {}
        elif is_whole and not path.startswith(inside):
            for leaf, parameter in layer.named_parameters(recurse=False):
                found[f"{path}.{leaf}"] = _whole(parameter)
    return Trained(changes=found, layers=replaced)


def _adapted(layer: WeightChange) -> Change:
    return lambda weight: layer.weight.float() + layer.delta_weight()


def _adapted_bias(layer: WeightChange) -> Change:
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
def measure_rounding(base: DiffusionModel, files: Sequence[File], view: BaseView) -> dict[str, float]:
    """Measure by how much each weight moves when every number of the files moves by half a step of its dtype.

    What rounding does hangs on the formula: to a low-rank change a part of itself, to DoRA's magnitudes or a whole
    model a part of the weight.

    Returns:
        Target to the Frobenius norm of its move.
    """
    moves: dict[str, float] = defaultdict(float)
    for file in files:
        changes = file_changes([DEFINITION(file, view, base)])
        moved = {} if file.kind == "checkpoint" else file_changes([DEFINITION(_moved(file), view, base)])
        dtypes = {tensor.dtype for tensor in file.tensors.values() if tensor.is_floating_point()}
        coarsest = max(dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)
        for target, weight, _ in _weights(base, changes):
            try:
                made = changes[target](weight)
                move = moved[target](weight) - made if moved else _half_steps(made, coarsest)
            except _UNCOMPUTED:
                continue
            moves[target] += float(move.norm())
    return dict(moves)


def _moved(file: File) -> File:
    def moved(name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        signs = torch.randint(2, tensor.shape, generator=derive_generator(0, "rounding", name)) * 2 - 1
        return tensor.float() + signs * _half_steps(tensor.float(), tensor.dtype)

    return replace(file, tensors={name: moved(name, tensor) for name, tensor in file.tensors.items()})


def _half_steps(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Give how far each number may be from the one it was rounded from."""
    info, exponents = torch.finfo(dtype), numbers.abs().clamp_min(torch.finfo(dtype).smallest_normal).log2().floor()
    return info.eps / 2 * torch.exp2(exponents)


@torch.no_grad()
def compare_weights(
    base: DiffusionModel, found: Changes, wanted: Changes, rounding: Mapping[str, float]
) -> WeightError | None:
    """Compare weight by weight; what cannot be computed is passed over, since readings tell it.

    Args:
        base: The base model.
        found: What a program makes of the files.
        wanted: What is right.
        rounding: See `measure_rounding`.

    Returns:
        The greatest error among weights whose change stands out of rounding; None: there is nothing to compare.
    """
    worst, is_wrong, count = WeightError(), False, 0
    for target, weight, step in _weights(base, found.keys() | wanted.keys()):
        try:
            right = wanted[target](weight) if target in wanted else weight
            error = float((found[target](weight) - right if target in found else weight - right).norm())
        except _UNCOMPUTED as failure:
            if is_out_of_memory(failure):
                raise
            continue
        change = float((right - weight).norm())
        # a weight that nobody trained is in the file as stored, and in the models in fewer bits
        share = _COMPUTED if change else max(_COMPUTED, step)
        unseen = share * float(weight.norm()) + _ROUNDINGS * rounding.get(target, 0.0)
        count += 1
        is_bad = not error <= _TOLERANCE * change + unseen
        if is_bad or change > unseen:
            relative = error / change if change else float(error > 0)
            if (is_bad, relative) > (is_wrong, worst.error):
                worst = WeightError(target=target, error=relative)
        is_wrong |= is_bad
    return WeightError(target=worst.target, error=worst.error, is_wrong=is_wrong) if count else None


@torch.no_grad()
def compare_layers(base: DiffusionModel, readings: Sequence[Reading], wanted: Mapping[str, nn.Module]) -> WeightError:
    """Ask layers that no weight describes one by one, in float32.

    Args:
        base: The base model.
        readings: What a program makes of the files.
        wanted: Path to what stands in a layer's place.

    Returns:
        The greatest error of a linear layer's answer over its change.
    """
    worst = WeightError()
    layers = {path: layer for path, layer in named_layers(base) if path in wanted and isinstance(layer, nn.Linear)}
    questions = {path: _question(path, layer) for path, layer in layers.items()}
    plain = {path: _answer(layer, questions[path]) for path, layer in layers.items()}
    with applied(base, readings):
        found = {path: _answer(layer, questions[path]) for path, layer in layers.items()}
    for path in layers:
        right = _answer(wanted[path], questions[path])
        error, change = float((found[path] - right).norm()), float((right - plain[path]).norm())
        is_bad = not error <= _TOLERANCE * change + _COMPUTED * float(right.norm())
        relative = error / change if change else float(error > 0)
        if (is_bad, relative) > (worst.is_wrong, worst.error):
            worst = WeightError(target=path, error=relative, is_wrong=is_bad)
    return worst


def _question(path: str, layer: nn.Linear) -> Tensor:
    return torch.randn(8, layer.in_features, generator=derive_generator(0, "probe", path)).to(layer.weight.device)


def _answer(layer: nn.Module, x: Tensor) -> Tensor:
    answer: Tensor = deepcopy(layer).float()(x)
    return answer


_UNCOMPUTED = (RuntimeError, ValueError, KeyError, IndexError)


def _weights(base: DiffusionModel, targets: Collection[str]) -> Iterator[tuple[str, Tensor, float]]:
    """Give the float32 value of each weight, and the step of what it is held in."""
    for path, layer in named_layers(base):
        for leaf, parameter in layer.named_parameters(recurse=False):
            if (target := f"{path}.{leaf}") in targets:
                yield target, parameter.detach().float(), torch.finfo(parameter.dtype).eps
