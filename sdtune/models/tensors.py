"""Reading of safetensors files: the header alone, then one tensor at a time into the dtype it is needed in.

Plain reads instead of a mapping: a tensor is in memory once, in its final dtype, and a file that is replaced or
cut while a run is going cannot change or kill it. Nor do tensors lie at odd addresses, as in a mapped file, where the
same weights give other last digits.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO
    from pathlib import Path

    import torch
    from torch import Tensor

_CHUNK = 1 << 18  # elements
_READABLE = "use a file in fp32, fp16 or bf16"
HEADER_LIMIT_BYTES = 100_000_000  # the limit of the safetensors library
_WIDTH = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_TORCH = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tensor in a file: dtype by safetensors' name, shape, byte range counted from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """The header of a safetensors file.

    Attributes:
        path: The file.
        entries: Tensor name to place.
        metadata: The file's own strings.
    """

    path: Path
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name to shape."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Read one tensor to the CPU; floats are cast to `dtype` unless it is None.

        Raises:
            ModelError: See `read_entry`.
        """
        return self.read_entry(name, self.entries[name], dtype)

    def read_entry(self, name: str, entry: Entry, dtype: torch.dtype | None = None) -> Tensor:
        """Read a tensor, or a part of one that lies in one piece; `name` is for messages.

        Raises:
            ModelError: The file became shorter since its header was read, or the dtype is not read here.
        """
        import torch

        if entry.dtype not in _TORCH:
            raise ModelError(f"{name} in {self.path.name} is {entry.dtype}, which is not read", hint=_READABLE)
        stored: torch.dtype = getattr(torch, _TORCH[entry.dtype])
        wanted = dtype if dtype is not None and stored.is_floating_point else stored
        tensor = torch.empty(math.prod(entry.shape), dtype=wanted)
        with self.path.open("rb", buffering=0) as file:
            file.seek(entry.start)
            if wanted == stored:
                self._read_into(file, tensor)
            else:
                self._read_cast(file, tensor, stored)
        return tensor.reshape(entry.shape)

    def _read_cast(self, file: FileIO, tensor: Tensor, stored: torch.dtype) -> None:
        """Read piece by piece: a buffer that fits the processor's cache, and no second copy of a large tensor."""
        import torch

        buffer = torch.empty(_CHUNK, dtype=stored)
        for start in range(0, len(tensor), _CHUNK):
            piece = buffer[: len(tensor) - start]
            self._read_into(file, piece)
            tensor[start : start + len(piece)] = piece

    def _read_into(self, file: FileIO, tensor: Tensor) -> None:
        import torch

        buffer, done = tensor.view(torch.uint8).numpy().data, 0
        while done < len(buffer):  # a single read gives at most 2 GiB
            count = file.readinto(buffer[done:])
            if not count:
                raise ModelError(f"{self.path.name} ended early while being read", hint="download it again")
            done += count


def read_header(path: Path) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises:
        ModelError: The file is missing, a folder, cut short, a pickle, or not safetensors.
    """
    if not path.exists():
        raise ModelError(f"there is no file {path}", hint="check the path")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a .safetensors file")
    try:
        return _parse(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise ModelError(f"{path} is not a .safetensors file: its header cannot be read") from error


def _parse(path: Path) -> TensorFile:
    total = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        _refuse_pickle(path, start)
        if len(start) < 8:
            raise ModelError(f"{path} is cut short: {total} bytes hold no model", hint="download it again")
        (length,) = struct.unpack("<Q", start)
        if length > HEADER_LIMIT_BYTES:
            raise ModelError(f"{path} is not a .safetensors file: its header would have {length} bytes")
        if 8 + length > total:
            raise ModelError(f"{path} is cut short inside its header", hint="download it again")
        header = json.loads(file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    entries = {name: _entry(value, 8 + length) for name, value in header.items()}
    end = max((entry.end for entry in entries.values()), default=0)
    if end > total:
        raise ModelError(f"{path} is cut short: {total:,} of {end:,} bytes are there", hint="download it again")
    return TensorFile(path=path, entries=entries, metadata={str(k): str(v) for k, v in metadata.items()})


def _entry(value: Mapping[str, Any], offset: int) -> Entry:
    start, end = (int(place) for place in value["data_offsets"])
    shape = tuple(int(side) for side in value["shape"])
    dtype = str(value["dtype"])
    # a dtype that is not known (fp8) is no error before that tensor is read
    expected = math.prod(shape) * _WIDTH.get(dtype, 0)
    if start < 0 or min(shape, default=0) < 0 or (dtype in _WIDTH and end - start != expected):
        raise ValueError("offsets do not fit the shape")
    return Entry(dtype=dtype, shape=shape, start=offset + start, end=offset + end)


def _refuse_pickle(path: Path, start: bytes) -> None:
    # a safetensors header stays below 2**32 bytes, so bytes 4 to 7 of a real one are zero
    is_pickle = start[:1] == b"\x80" and start[4:] != bytes(4)
    if start[:4] == b"PK\x03\x04" or is_pickle or path.suffix.lower() in {".ckpt", ".pt", ".pth", ".bin"}:
        raise ModelError(
            f"{path.name} is a pickled file ({path.suffix or 'no suffix'}), which can run code when it is opened; "
            "sdtune reads only .safetensors",
            where=str(path),
            hint="use the model's .safetensors file, or convert it in a webui (Checkpoint Merger)",
        )
