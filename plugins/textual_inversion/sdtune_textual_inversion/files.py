"""Embeddings as files: what webui, ComfyUI and diffusers load, out and in."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import torch

from sdtune.api import Artifact, BytesArtifact, ConfigError, ModelError, PickledArtifact
from sdtune_textual_inversion.card import encode_card, read_card
from sdtune_textual_inversion.embedding import Embedding, from_content, to_tensors, to_webui

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from sdtune.api import AnyArtifact
    from sdtune_textual_inversion.config import EmbeddingFormat

# What torch's reader was seen to raise on damaged files, and on those that hold more than data.
_BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError)
_PICTURES = (".png", ".webp", ".jxl", ".avif")


def make_artifact(
    embedding: Embedding, form: EmbeddingFormat, *, is_delivered: bool, picture: Image.Image | None = None
) -> AnyArtifact:
    """Give an embedding as a file to be; its name is the word, as webui reads it.

    Args:
        embedding: What goes in.
        form: Which form.
        is_delivered: A webui gets it.
        picture: For the card.
    """
    stem = embedding.name
    if form == "pt":
        return PickledArtifact(kind="embedding", stem=stem, content=to_webui(embedding), is_delivered=is_delivered)
    if form == "png":
        content = encode_card(embedding, picture)
        return BytesArtifact(kind="embedding", stem=stem, suffix=".png", content=content, is_delivered=is_delivered)
    tensors = to_tensors(embedding)
    return Artifact(
        kind="embedding",
        stem=stem,
        tensors=tensors,
        metadata={},
        keep_dtype=tuple(tensors),  # small, and half precision would be felt
        architecture_suffix="/textual-inversion",
        is_delivered=is_delivered,
    )


def read_embedding(path: Path) -> Embedding:
    """Read a `.safetensors`, a picture, or a `.pt` or `.bin`, of webui, diffusers or sd-scripts.

    Raises:
        ConfigError: There is no such file.
        ModelError: It holds no embedding, or more than data.
    """
    if not path.is_file():
        raise ConfigError(f"no file {path}", hint="give an embedding: .pt, .bin, .safetensors or .png")
    if path.suffix.lower() in _PICTURES:
        return read_card(path)
    is_safe = path.suffix.lower() == ".safetensors"
    content = _read_safetensors(path) if is_safe else _read_pickled(path)
    return from_content(content, name=path.stem, where=str(path))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"not a readable .safetensors file: {error}", where=str(path)) from error
    return tensors


def _read_pickled(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"not a readable embedding: {reason}", where=str(path)) from error
