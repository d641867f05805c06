"""The file as it was meant: every algorithm by the formula it is trained with, names of any dialect.

No program; what `sdtune verify` compares the programs with, where the trained model is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.formats.consumers import contexts, dialects, embeddings
from sdtune.formats.consumers.adapters import (
    ALGORITHMS,
    find_algorithm,
    keys_of,
    note_layer,
    weight_change,
)
from sdtune.formats.consumers.checkpoints import read_checkpoint
from sdtune.formats.consumers.reading import BaseView, File, Reading, unpickle

if TYPE_CHECKING:
    from sdtune.models.base import DiffusionModel


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file as it was meant."""
    match file.kind:
        case "lora":
            return read_adapters(file, view)
        case "checkpoint":
            return read_checkpoint(file, view)
        case "embedding":
            return embeddings.read_vectors(file, view, embeddings.content_of(file))
        case "hypernetwork":
            return contexts.read_networks(unpickle(file.path), view, contexts.webui_network)


def read_adapters(file: File, view: BaseView) -> Reading:
    """Read an adapter's file, in whatever dialect."""
    reading, meant = Reading(), dialects.as_meant(file, view)
    for layer, group in meant.file.groups.items():
        target, algorithm = meant.names.get(layer), find_algorithm(group, ALGORITHMS)
        if target is None or algorithm is None:
            reading.skip(keys_of(layer, group), "no layer has this name" if target is None else "no known algorithm")
        else:
            note_layer(reading, layer, group, target, algorithm, change=weight_change(algorithm, group), view=view)
    return meant.undo(reading)
