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
from sdtune.models.quantize import QuantizedLinear, quantized_layers
from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView, Change, File, Reading
    from sdtune.models.base import DiffusionModel

    Changes = Mapping[str, Change]


_TOLERANCE = 0.02  # of a change; diffusers holds factors in the model's dtype, which may be bfloat16
_ROUNDINGS = 2.0  # an error may be so many times what rounding each number of the file does, every one by half a step
_COMPUTED = 2.0**-20  # of a weight: what sums in float32, in another order, may be off by; a number has 24 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightError:
    """What is furthest off.

    Attributes:
        target: A weight, as `Use.target`, a layer's path, or a word and its text encoder.
        error: |found - wanted| over |wanted - base|, of Frobenius norms; a word has no base.
        is_wrong: It, or another one, is off by more than rounding.
    """

    target: str = ""
    error: float = 0.0
    is_wrong: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What files must make of the base model's layers and of words.

    Attributes:
        changes: Weight, as `Use.target`, to what becomes of it.
        layers: Path to what stands in a layer's place and is no weight, such as a network before it.
        words: Word, as files are called, to text encoder (`clip_l`, `clip_g`) to (n, D) vectors.
    """

    changes: Changes
    layers: Mapping[str, nn.Module] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)


def trained_layers(model: DiffusionModel, *, is_whole: bool, words: Mapping[str, str] | None = None) -> Trained:
    """Give the layers and words of a trained model; what is not asked for costs nothing.

    Args:
        model: The model, in eval mode.
        is_whole: Give all weights; else those of layers with an adapter.
        words: Word, as files are called, to the trained one.

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
            is_packed = any(quantized_layers(layer))  # which cannot be asked in float32
            replaced |= {path: layer} if isinstance(layer, Wrapper) and not is_packed else {}
        elif is_whole and not path.startswith(inside):
            for leaf, parameter in layer.named_parameters(recurse=False):
                found[f"{path}.{leaf}"] = _whole(parameter)
    vectors = model.embeddings()
    own = {word: vectors[trained] for word, trained in (words or {}).items() if trained in vectors}
    return Trained(changes=found, layers=replaced, words=own)


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


def file_words(readings: Sequence[Reading]) -> dict[str, Mapping[str, Tensor]]:
    """Give the words that a program finds in files, as `Trained.words`."""
    return {word: encoders for reading in readings for word, encoders in reading.words.items()}


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


def compare(
    base: DiffusionModel, readings: Sequence[Reading], wanted: Trained, rounding: Mapping[str, float], *, step: float
) -> WeightError | None:
    """Compare all that a program makes of files with what is right; None: there is nothing to compare.

    Args:
        base: The base model.
        readings: What a program makes of the files.
        wanted: What is right.
        rounding: See `measure_rounding`.
        step: See `compare_words`.
    """
    errors = [compare_weights(base, file_changes(readings), wanted.changes, rounding)]
    if wanted.layers:
        errors.append(compare_layers(base, readings, wanted.layers))
    if wanted.words:
        errors.append(compare_words(readings, wanted.words, step))
    found = [error for error in errors if error is not None]
    return max(found, key=lambda error: (error.is_wrong, error.error), default=None)


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


def compare_words(readings: Sequence[Reading], wanted: Mapping[str, Mapping[str, Tensor]], step: float) -> WeightError:
    """Compare vectors of words, which may differ by rounding.

    Args:
        readings: What a program makes of the files.
        wanted: As `Trained.words`.
        step: Of the dtype of fewest bits that they are held in, relative to 1.
    """
    worst = WeightError()
    found = file_words(readings)
    for word, encoders in wanted.items():
        for encoder, vectors in encoders.items():
            right, own = vectors.detach().float().cpu(), found.get(word, {}).get(encoder)
            is_whole = own is not None and own.shape == right.shape
            error = float((own.cpu() - right).norm() / right.norm()) if own is not None and is_whole else 1.0
            is_bad = not error <= step
            if (is_bad, error) > (worst.is_wrong, worst.error):
                worst = WeightError(target=f"{word}, {encoder}", error=error, is_wrong=is_bad)
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
