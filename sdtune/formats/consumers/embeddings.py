"""Vectors for words: the forms of their files, and what is common to all readers."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from sdtune.errors import ModelError
from sdtune.formats.consumers.reading import Reading, unpickle

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.formats.consumers.reading import BaseView, File

TWO = ("clip_l", "clip_g")
NO_PICTURES = "it reads no pictures"
_EMBEDDING = "text_model.embeddings.token_embedding.weight"


def widths(view: BaseView) -> dict[str, int]:
    """Give the width of each text encoder of the base model."""
    found = {"clip_l": f"text_encoder.{_EMBEDDING}", "clip_g": f"text_encoder_2.{_EMBEDDING}"}
    return {encoder: view.shapes[name][1] for encoder, name in found.items() if name in view.shapes}


def tensors_in(content: Mapping[Any, Any]) -> dict[str, Any]:
    """Give what holds vectors: webui's `string_to_param`, or the whole content."""
    parameters = content.get("string_to_param")
    return dict(parameters) if isinstance(parameters, Mapping) else dict(content)


def content_of(file: File) -> Mapping[Any, Any]:
    """Read what an embedding's file holds, where a program has no rules of its own for `.pt` files.

    Raises:
        ModelError: It cannot be read.
    """
    if file.is_picture:
        return _read_picture(file.path)
    return unpickle(file.path) if file.is_pickled else file.tensors


def _read_picture(path: Path) -> Mapping[Any, Any]:
    """Read webui's text chunk: JSON in base64, each tensor as lists under `TORCHTENSOR`."""

    def decode(value: dict[str, Any]) -> Any:
        return torch.tensor(value["TORCHTENSOR"]) if "TORCHTENSOR" in value else value

    try:
        with Image.open(path) as picture:
            content = json.loads(base64.b64decode(picture.info["sd-ti-embedding"]), object_hook=decode)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ModelError(f"there is no embedding in the picture {path}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds a {type(content).__name__}, not a dictionary")
    return content


def read_vectors(file: File, view: BaseView, content: Mapping[Any, Any]) -> Reading:
    """Read an embedding of one tensor, or of `clip_l` and `clip_g`; the word is the file's stem, or a picture's own."""
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
    reading = take_vectors(reading, file, view, vectors, used=values)
    if file.is_picture and reading.words and isinstance(name := content.get("name"), str):
        (own,) = reading.words.values()
        reading.words = {name: own}
    return reading


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
