"""Embeddings in files of any program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.errors import ConfigError
from sdtune.formats.card import read_card
from sdtune.formats.embedding import Embedding, from_content
from sdtune.models.pickles import read_plain
from sdtune.models.tensors import read_header

if TYPE_CHECKING:
    from pathlib import Path

PICTURES = frozenset({".png", ".webp", ".jxl", ".avif"})


def read_embedding(path: Path) -> Embedding:
    """Read a `.safetensors`, a picture, or a `.pt` or `.bin`, of webui, diffusers or sd-scripts.

    Raises:
        ConfigError: There is no such file.
        ModelError: It holds no embedding, or more than data.
    """
    if not path.is_file():
        raise ConfigError(f"no file {path}", hint="give an embedding: .pt, .bin, .safetensors or .png")
    if path.suffix.lower() in PICTURES:
        return read_card(path)
    is_safe = path.suffix.lower() == ".safetensors"
    content = _read_safetensors(path) if is_safe else read_plain(path)
    return from_content(content, name=path.stem, where=str(path))


def _read_safetensors(path: Path) -> dict[str, Any]:
    file = read_header(path)
    return {name: file.read(name) for name in file.entries}
