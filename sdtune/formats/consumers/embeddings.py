"""Vectors for words: the forms of their files, and what is common to all readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdtune.formats.consumers.reading import Reading

if TYPE_CHECKING:
    from sdtune.formats.consumers.reading import BaseView, File

TWO = ("clip_l", "clip_g")
_EMBEDDING = "text_model.embeddings.token_embedding.weight"


def widths(view: BaseView) -> dict[str, int]:
    """Give the width of each text encoder of the base model."""
    found = {"clip_l": f"text_encoder.{_EMBEDDING}", "clip_g": f"text_encoder_2.{_EMBEDDING}"}
    return {encoder: view.shapes[name][1] for encoder, name in found.items() if name in view.shapes}


def tensors_in(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Give what holds vectors: webui's `string_to_param`, or the whole content."""
    parameters = content.get("string_to_param")
    return dict(parameters) if isinstance(parameters, Mapping) else dict(content)


def read_vectors(file: File, view: BaseView, content: Mapping[Any, Any]) -> Reading:
    """Read an embedding of one tensor, or of `clip_l` and `clip_g`; the word is the file's stem."""
    reading, values = Reading(), tensors_in(content)
    wanted = widths(view)
    if len(wanted) == 1:
        tensors = [value for value in values.values() if isinstance(value, Tensor)]
        if len(values) != 1 or not tensors:
            reading.refused = f"it holds {len(values)} entries, an embedding has one"
            return reading
        vectors = {"clip_l": tensors[0]}
    else:
        if not values.keys() >= set(TWO):
            reading.refused = "a model with two text encoders needs both clip_l and clip_g"
            return reading
        vectors = {encoder: values[encoder] for encoder in TWO}
        reading.skip(values.keys() - set(TWO), "there is no such text encoder")
    return take_vectors(reading, file, view, vectors, used=values)


def take_vectors(
    reading: Reading, file: File, view: BaseView, vectors: Mapping[str, Tensor], *, used: Mapping[str, Any]
) -> Reading:
    """Put vectors into a reading, if they fit the text encoders."""
    matrices = {encoder: tensor if tensor.dim() > 1 else tensor[None] for encoder, tensor in vectors.items()}
    for encoder, width in widths(view).items():
        if encoder in matrices and matrices[encoder].shape[-1] != width:
            reading.refused = f"its vectors are {matrices[encoder].shape[-1]} wide, the text encoder is {width}"
    if len({len(matrix) for matrix in matrices.values()}) > 1:
        reading.refused = "clip_l and clip_g have different numbers of vectors"
    reading.used |= used.keys()
    if not reading.refused:
        reading.words = {file.path.stem: {encoder: tensor.detach().float() for encoder, tensor in matrices.items()}}
    return reading
