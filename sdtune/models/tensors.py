"""Reading of safetensors files: the header alone, then one tensor at a time into the dtype it is needed in.

Plain reads instead of a mapping: a tensor is in memory once, in its final dtype, and a file that is replaced or
cut while a run is going cannot change or kill it. Nor do tensors lie at odd addresses, as in a mapped file, where the
same weights give other last digits.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from io import FileIO

    import torch
    from torch import Tensor

_CHUNK = 1 << 18  # elements
_READABLE = "use a file in fp32, fp16 or bf16"
HEADER_LIMIT_BYTES = 16_000_000  # the library's limit is 100 MB; the largest real headers, with metadata, have 2 MB
_NAME_LIMIT_CHARS, _DIMENSION_LIMIT = 256, 8
_AGAIN = "download it again"
_BROKEN = "the model is broken, use another file of it"
WIDTHS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
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
    """One tensor in a file.

    Attributes:
        path: The file.
        dtype: By safetensors' name, e.g. `F16`.
        shape: As every program sees it.
        start: First byte, counted from the start of the file.
        end: The byte behind the last.
        strides: In elements; None: row-major, as in every safetensors file.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    strides: tuple[int, ...] | None = None

    def rows(self, first: int, count: int) -> Entry:
        """Give the place of some rows, counted along the first side."""
        inner = math.prod(self.shape[1:])
        step = inner if self.strides is None else self.strides[0]
        span = count * inner
        if self.strides is not None:
            sides = (count, *self.shape[1:])
            span = 1 + sum((side - 1) * stride for side, stride in zip(sides, self.strides, strict=True))
        start = self.start + first * step * WIDTHS[self.dtype]
        return replace(self, shape=(count, *self.shape[1:]), start=start, end=start + span * WIDTHS[self.dtype])

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Read the tensor to the CPU; floats are cast to `dtype` unless it is None. `name` is for messages.

        Raises:
            ModelError: The tensor holds NaN or infinity, its dtype is not read here, or the file became shorter since
                its header was read.
        """
        import torch

        if self.dtype not in _TORCH:
            raise ModelError(f"{name} in {self.path.name} is {self.dtype}, which is not read", hint=_READABLE)
        stored: torch.dtype = getattr(torch, _TORCH[self.dtype])
        wanted = dtype if dtype is not None and stored.is_floating_point else stored
        tensor = torch.empty((self.end - self.start) // WIDTHS[self.dtype], dtype=wanted)
        buffer = None if wanted == stored else torch.empty(min(len(tensor), _CHUNK), dtype=stored)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            for begin in range(0, len(tensor), _CHUNK):  # pieces that fit the processor's cache; no second copy of all
                piece = tensor[begin : begin + _CHUNK]
                read = piece if buffer is None else buffer[: len(piece)]
                _read_into(file, read)
                if not _is_finite(read):
                    raise ModelError(f"{name} in {self.path.name} holds NaN or infinity", hint=_BROKEN)
                if buffer is not None:
                    piece.copy_(read)
        if self.strides is None:
            return tensor.reshape(self.shape)
        return tensor.as_strided(self.shape, self.strides).contiguous()


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
            ModelError: See `Entry.read`.
        """
        return self.entries[name].read(name, dtype)


def _is_finite(piece: Tensor) -> bool:
    if not piece.dtype.is_floating_point or not len(piece):
        return True
    low, high = piece.aminmax()  # NaN comes through; ten times as fast as isfinite
    return bool(low.isfinite() and high.isfinite())


def _read_into(file: FileIO, tensor: Tensor) -> None:
    import torch

    buffer, done = tensor.view(torch.uint8).numpy().data, 0
    while done < len(buffer):  # a single read gives at most 2 GiB
        count = file.readinto(buffer[done:])
        if not count:
            raise ModelError(f"{Path(str(file.name)).name} ended early while being read", hint=_AGAIN)
        done += count


def read_header(path: Path) -> TensorFile:
    """Read and check the header of a safetensors file.

    Raises:
        ModelError: The file is missing, a folder, cut short, a pickle, or not safetensors.
    """
    check_is_file(path)
    try:
        return _parse(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f": {error.args[0]}" if type(error) is ValueError else ""
        raise ModelError(f"{path} holds no weights: its safetensors header cannot be read{reason}") from error


def check_is_file(path: Path) -> None:
    """Raise a ModelError for what is not there, or is no file."""
    if not path.exists():
        raise ModelError(f"there is no file {path}", hint="check the path")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a file with weights")
    if not path.is_file():
        raise ModelError(f"{path} is not a regular file")


def is_pickled(start: bytes) -> bool:
    """Tell by a file's first nine bytes whether `torch.save` or pickle wrote it."""
    # 80 hex may be the length of a safetensors header too; that header begins with a brace
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:] != b"{")


def _parse(path: Path) -> TensorFile:
    total = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(9)
        _refuse_others(path, start)
        length = int.from_bytes(start[:8], "little")
        if length > HEADER_LIMIT_BYTES:
            raise ModelError(f"{path} holds no weights: it is no safetensors file")
        if 8 + length > total:
            raise ModelError(f"{path} is cut short inside its header", hint=_AGAIN)
        file.seek(8)
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    metadata = dict(header.pop("__metadata__", None) or {})
    entries = {check_name(name): _entry(path, value, 8 + length) for name, value in header.items()}
    _check_order(path, entries, 8 + length, total)
    return TensorFile(path=path, entries=entries, metadata={str(k): str(v) for k, v in metadata.items()})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def check_name(name: str) -> str:
    """Give a tensor's name back if it is one that a program may show and sort by.

    Raises:
        ValueError: It is overlong, or has control characters.
    """
    if len(name) > _NAME_LIMIT_CHARS or not name.isprintable():
        raise ValueError("a tensor's name is overlong or has control characters")
    return name


def _entry(path: Path, value: Mapping[str, Any], offset: int) -> Entry:
    start, end = (_size(place) for place in value["data_offsets"])
    shape = tuple(_size(side) for side in value["shape"])
    dtype = str(value["dtype"])
    # a dtype that is not known is no error before that tensor is read
    expected = math.prod(shape) * WIDTHS.get(dtype, 0)
    if start > end or len(shape) > _DIMENSION_LIMIT or (dtype in WIDTHS and end - start != expected):
        raise ValueError("offsets do not fit a shape")
    return Entry(path=path, dtype=dtype, shape=shape, start=offset + start, end=offset + end)


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError("a size or offset is no size")
    return value


def _check_order(path: Path, entries: Mapping[str, Entry], start: int, total: int) -> None:
    """Check that tensors fill the file from the header to its end, as the format asks, one behind the other."""
    end = max((entry.end for entry in entries.values()), default=start)
    if end > total:
        raise ModelError(f"{path} is cut short: {total:,} of {end:,} bytes are there", hint=_AGAIN)
    place = start
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != place:
            raise ValueError("tensors overlap or leave gaps")
        place = entry.end
    if place != total:
        raise ModelError(f"{path} has {total - place:,} bytes that belong to no tensor", hint=_AGAIN)


def _refuse_others(path: Path, start: bytes) -> None:
    """Say what a file is that cannot be safetensors by its first bytes."""
    if is_pickled(start):
        raise ModelError(
            f"{path.name} is a pickled file, which can run code when it is opened, under a name that hides it",
            where=str(path),
            hint="use the model's .safetensors file, or rename this to .ckpt to have its tensors read and no code run",
        )
    if len(start) < 8:
        raise ModelError(f"{path} is cut short: {len(start)} bytes hold no model", hint=_AGAIN)
    if start.lstrip()[:1] == b"<":
        raise ModelError(f"{path} is a web page, not a model", hint="download the file itself")
    if start.startswith(b"version "):
        raise ModelError(f"{path} is a pointer of Git LFS, not the model itself", hint="run 'git lfs pull' there")
