"""The safetensors container, the same bytes for the same content.

The safetensors package (0.8) writes metadata in an order that changes from call to call, and files only their owner can
read; so the header is built here, and the package reads it. Layout: eight bytes of little-endian header length, a JSON
header padded with spaces, then the tensors' bytes without gaps, wide dtypes first so that each stays aligned.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

# In the order of a file, which is the safetensors package's: who saves a file again there gets the same hash.
_DTYPE_NAMES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPE_RANKS = {dtype: rank for rank, dtype in enumerate(_DTYPE_NAMES)}
_LEGACY_START, _LEGACY_END = 0x100000, 0x110000


def encode_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Build everything that stands before the first tensor byte; keys are sorted."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, tensor in _in_file_order(tensors):
        start, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    # File names may hold bytes that are no UTF-8 (lone surrogates); readers of JSON refuse those.
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def iter_body(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """Give each tensor's bytes in file order; tensors are contiguous and on the CPU."""
    for _, tensor in _in_file_order(tensors):
        yield tensor.reshape(-1).view(torch.uint8).numpy().data


def hash_body(tensors: Mapping[str, Tensor]) -> str:
    """Hash everything after the header (SHA-256, hex): what webuis and model sites know a LoRA by."""
    digest = hashlib.sha256()
    for chunk in iter_body(tensors):
        digest.update(chunk)
    return digest.hexdigest()


def hash_legacy(chunks: Iterable[bytes | memoryview]) -> str:
    """Hash 64 KiB from 1 MiB on (first 8 hex of SHA-256): the rule of old webuis, read by additional-networks."""
    digest, position = hashlib.sha256(), 0
    for chunk in chunks:
        if position < _LEGACY_END:
            digest.update(chunk[max(_LEGACY_START - position, 0) : _LEGACY_END - position])
        position += len(chunk)
    return digest.hexdigest()[:8]


def read_metadata(path: Path) -> dict[str, str]:
    """Read a safetensors file's metadata; no tensor is loaded.

    Raises:
        ModelError: The file is missing, or is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path} as a safetensors file: {error}") from error


def _in_file_order(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    return sorted(tensors.items(), key=lambda item: (_DTYPE_RANKS[item[1].dtype], item[0]))
