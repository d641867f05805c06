"""What other programs will make of files, told before they are trained: by names, forms and the programs' own rules.

No model answers. One layer of each form is computed as each program computes it, with numbers as training might leave
them, so that a program that goes wrong by its nature is told from one that only may.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sdtune.export.certificate import Certificate
from sdtune.export.row import make_row
from sdtune.export.weights import file_changes
from sdtune.formats.consumers.adapters import kohya_names
from sdtune.formats.consumers.applying import change_weight, view_of
from sdtune.formats.consumers.table import BEFORE_TRAINING, DEFINITION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from sdtune.export.row import Row
    from sdtune.formats.consumers.reading import BaseView, File, Group, Reader, Reading
    from sdtune.models.base import DiffusionModel

_GROSS = 0.25  # of the change: an error that no training makes small


def foresee(
    files: Sequence[File], base: DiffusionModel, *, chosen: Sequence[str] = (), asked: Sequence[str] = ()
) -> Certificate:
    """Let each program read files that are not trained yet.

    Args:
        files: The files; a whole model's matrices may lack values (`File.is_hollow`).
        base: The base model without values, its parts on the meta device; only names and shapes are asked.
        chosen: Programs the files must work in.
        asked: Programs to ask; empty: the chosen ones, or all where none is chosen.

    Returns:
        Rows without errors; one is wrong where the program surely computes something else.
    """
    view, rows = view_of(base), []
    for file in files:
        rows += [_foresee(file, name, view, base) for name in asked or chosen or BEFORE_TRAINING]
    return Certificate(rows=tuple(rows), chosen=tuple(chosen))


def find_doubt(row: Row) -> str:
    """Say why a program may act otherwise, though nothing shows it; empty when there is no reason to think so."""
    return "" if row.fault(is_chosen=True) else row.weakness


@torch.no_grad()
def _foresee(file: File, name: str, view: BaseView, base: DiffusionModel) -> Row:
    reader = BEFORE_TRAINING[name]
    reading = reader(file, view, base)
    is_otherwise = False
    if not reading.refused and not reading.unsupported:
        sample = _sample(file, view)
        is_otherwise = _try_weights(reading, sample, reader, view, base) or _try_contexts(reading, file, view, base)
    # a difference counts where the program's own rules tell its reason
    return make_row(name, file, reading, None, None, is_wrong=is_otherwise and bool(reading.weakness))


def _sample(file: File, view: BaseView) -> File:
    """Keep, of an adapter's file, the smallest layer of each form, moved away from where training begins."""
    smallest: dict[object, tuple[int, str, Group]] = {}
    groups, names = (file.groups, kohya_names(view)) if file.kind == "lora" else ({}, {})
    for layer, group in groups.items():
        form = tuple(sorted((name, tensor.dim(), tensor.shape[2:]) for name, tensor in group.items()))
        size = math.prod(view.shapes.get(f"{names.get(layer)}.weight", ()))
        if form not in smallest or size < smallest[form][0]:
            smallest[form] = size, layer, group
    tensors = {
        f"{layer}.{name}": _moved(tensor) for _, layer, group in smallest.values() for name, tensor in group.items()
    }
    return replace(file, tensors=tensors)


def _moved(tensor: Tensor) -> Tensor:
    """Move numbers a little, as training does; a scale or a mark stays."""
    value = tensor.detach().cpu()
    is_scale = value.numel() == 1 or not value.is_floating_point()
    return value if is_scale else value + _ramp(value.shape, 0.02).to(value.dtype)


def _ramp(shape: Sequence[int], most: float) -> Tensor:
    """Give numbers from -most / 2 to most, all different; nothing is drawn."""
    count = torch.Size(shape).numel()
    return torch.linspace(-most / 2, most, count).reshape(tuple(shape))


def _try_weights(reading: Reading, sample: File, reader: Reader, view: BaseView, base: DiffusionModel) -> bool:
    """Compute the weights of a sample; note what fails, and tell whether one is grossly another than it should be."""
    is_otherwise = False
    meant = file_changes([DEFINITION(sample, view, base)]) if sample.tensors else {}
    for use in reader(sample, view, base).uses if sample.tensors else ():
        weight = _ramp(view.shapes[use.target], 0.2)
        found = change_weight(reading, use, weight)
        if found is not None and use.target in meant:
            right = meant[use.target](weight)
            is_otherwise |= bool((found - right).norm() > _GROSS * (right - weight).norm())
    return is_otherwise


def _try_contexts(reading: Reading, file: File, view: BaseView, base: DiffusionModel) -> bool:
    """Tell whether networks before keys and values compute something else than they should."""
    meant = DEFINITION(file, view, base).contexts if reading.contexts else {}
    is_otherwise = False
    with torch.random.fork_rng(devices=[]):  # a program may leave dropout on
        for width in reading.contexts.keys() & meant.keys():
            context = _ramp((8, width), 1.0)
            for found, right in zip(reading.contexts[width], meant[width], strict=True):
                error = (found(context) - right(context)).norm()
                is_otherwise |= bool(error > _GROSS * right(context).norm())
    return is_otherwise
