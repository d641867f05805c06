"""An embedding, and the forms its content has in files: webui's dictionary, or one tensor for each text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable

CLIP_L, CLIP_G = "clip_l", "clip_g"
# The key that holds the place of the word in webui's dictionary, and the token that CLIP has for it.
_STAR, _STAR_TOKEN = "*", 265
_ONE_TENSOR = "emb_params"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """Vectors for a word.

    Attributes:
        name: The word.
        vectors: Text encoder as webui names it (`clip_l`, and `clip_g` in SDXL) to (n, D) float32.
        step: Optimizer steps trained; None when a file does not tell.
        base_hash: First 10 digits of the base model's SHA-256; "" when not known.
        base_name: Name of the base model; "" when not known.
    """

    name: str
    vectors: Mapping[str, Tensor]
    step: int | None = None
    base_hash: str = ""
    base_name: str = ""

    @property
    def count(self) -> int:
        """Number of vectors."""
        return len(next(iter(self.vectors.values())))


def webui_embedding(embedding: Embedding) -> dict[str, Any]:
    """Give the content of webui's `.pt`; with two text encoders, which that has no place for, their tensors alone."""
    vectors = {name: tensor.detach().float().cpu() for name, tensor in embedding.vectors.items()}
    if len(vectors) > 1:
        return vectors
    (only,) = vectors.values()
    return {
        "string_to_token": {_STAR: _STAR_TOKEN},
        "string_to_param": {_STAR: only},
        "name": embedding.name,
        "step": embedding.step or 0,
        "sd_checkpoint": embedding.base_hash or None,
        "sd_checkpoint_name": embedding.base_name or None,
    }


def embedding_tensors(embedding: Embedding) -> dict[str, Tensor]:
    """Name the tensors of a `.safetensors` file: `emb_params`, or `clip_l` and `clip_g`."""
    vectors = {name: tensor.detach().float().cpu() for name, tensor in embedding.vectors.items()}
    return vectors if len(vectors) > 1 else {_ONE_TENSOR: next(iter(vectors.values()))}


def from_content(content: Any, *, name: str, where: str) -> Embedding:
    """Read any of the forms: webui's dictionary, `clip_l` and `clip_g`, or one tensor under any name (diffusers).

    Args:
        content: What the file holds.
        name: The file's stem, which webui takes for the word.
        where: The file, for messages.

    Raises:
        ModelError: It is none of them.
    """
    if not isinstance(content, Mapping):
        raise ModelError(f"it holds a {type(content).__name__}, no embedding", where=where)
    parameters = content.get("string_to_param")
    tensors = content if parameters is None else parameters
    found = {key: value for key, value in _items(tensors, where) if isinstance(value, Tensor)}
    if {CLIP_L, CLIP_G} <= found.keys():
        vectors = {encoder: _matrix(found[encoder], where) for encoder in (CLIP_L, CLIP_G)}
    elif len(found) == 1:
        vectors = {CLIP_L: _matrix(next(iter(found.values())), where)}
    else:
        raise ModelError(f"it holds {len(found)} tensors, an embedding has one", where=where)
    if len({len(tensor) for tensor in vectors.values()}) > 1:
        raise ModelError("its text encoders have different numbers of vectors", where=where)
    step = content.get("step")
    return Embedding(
        name=name,
        vectors=vectors,
        step=step if isinstance(step, int) else None,
        base_hash=_text(content.get("sd_checkpoint")),
        base_name=_text(content.get("sd_checkpoint_name")),
    )


def webui_checksum(vectors: Tensor) -> str:
    """Give webui's checksum of vectors (n, D): 4 hex digits, by `Embedding.checksum` of its textual_inversion.py."""
    rest = 0
    for value in (vectors.detach().float().cpu().reshape(-1) * 100).int().tolist():
        rest = (rest * 281 ^ value * 997) & 0xFFFFFFFF
    return f"{rest & 0xFFFF:04x}"


def _items(tensors: Any, where: str) -> Iterable[tuple[Any, Any]]:
    if not isinstance(tensors, Mapping):
        raise ModelError(f"its string_to_param is a {type(tensors).__name__}", where=where)
    return tensors.items()


def _matrix(tensor: Tensor, where: str) -> Tensor:
    matrix = tensor.detach().float()
    matrix = matrix[None] if matrix.ndim == 1 else matrix
    if matrix.ndim != 2 or not len(matrix) or not matrix.isfinite().all():
        raise ModelError(f"its tensor {tuple(tensor.shape)} is no (n, D) of finite numbers", where=where)
    return matrix


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
