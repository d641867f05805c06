"""One view over what lies in a file or a folder: names, shapes and strings at once, values when they are asked for.

Headers are read without torch; a file of `torch.save` is looked at behind its guard.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sdtune.errors import ModelError
from sdtune.formats.facts import TensorFacts
from sdtune.models.pickles import read_plain
from sdtune.models.tensors import is_pickled
from sdtune.models.weights import open_weights, weight_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from sdtune.models.tensors import Entry

Form = Literal["safetensors", "pickle", "picture", "folder"]

_PICTURES = {".png", ".webp"}
_STEMS = ("diffusion_pytorch_model", "model")
_ADAPTER_FILES = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
_NEEDS_PLAIN = re.compile(r"\d+\.[01]\.|string_to_param\.")  # files whose numbers and words tell as much as tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """An opened file or folder.

    Attributes:
        path: Where it is.
        form: How it is packed.
        size_bytes: Bytes of the file, or of a folder's weights.
        tensors: Name to dtype and shape.
        metadata: Strings of a safetensors file, numbers and words of a pickled one.
        plain: What an embedding's or hypernetwork's pickled file, or a picture, holds; None for other files.
        configs: JSON files of a folder, by their path inside.
    """

    path: Path
    form: Form
    size_bytes: int
    tensors: Mapping[str, TensorFacts]
    metadata: Mapping[str, str] = field(default_factory=dict)
    plain: Any = None
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    _entries: Mapping[str, Entry] = field(default_factory=dict)
    _held: Mapping[str, Tensor] = field(default_factory=dict)

    def read(self, name: str) -> Tensor:
        """Read a tensor as it is stored, whatever its numbers are: broken files are looked at here.

        Raises:
            ModelError: The file became shorter.
            KeyError: The dtype is not in `TORCH_NAMES`.
        """
        return self._held[name] if name in self._held else _read_raw(self._entries[name])

    def read_values(self, name: str) -> list[float]:
        """Read a small tensor's elements, without torch where they lie in a row."""
        entry = self._entries.get(name)
        if entry is None or entry.strides is not None:
            return [float(value) for value in self.read(name).reshape(-1).tolist()]
        with entry.path.open("rb") as stream:
            stream.seek(entry.start)
            return _decode(stream.read(entry.end - entry.start), entry.dtype)

    def read_scalars(self, names: Iterable[str]) -> dict[str, float]:
        """Read tensors of one element; others, and dtypes that are not read, are left out."""
        single = (name for name in names if name in self.tensors and self.tensors[name].count == 1)
        values = {name: self.read_values(name) for name in single}
        return {name: found[0] for name, found in values.items() if found}


def open_contents(path: Path) -> Contents:
    """Open any file or folder that may hold weights.

    Raises:
        ModelError: It is missing, damaged, unsafe, or holds no tensors in a form that is read.
    """
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() in _PICTURES and path.is_file():
        return _open_picture(path)
    return _open_file(path)


def _open_file(path: Path) -> Contents:
    file = open_weights(path)
    pickled = _starts_pickled(path)
    needs_plain = pickled and any(_NEEDS_PLAIN.match(name) for name in file.entries)
    return Contents(
        path=path,
        form="pickle" if pickled else "safetensors",
        size_bytes=path.stat().st_size,
        tensors={name: TensorFacts(entry.dtype, entry.shape) for name, entry in file.entries.items()},
        metadata=file.metadata,
        plain=read_plain(path) if needs_plain else None,
        _entries=file.entries,
    )


def _starts_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        return is_pickled(file.read(8))


def _open_folder(path: Path) -> Contents:
    for name in _ADAPTER_FILES:
        if (path / name).is_file():
            return _open_file(path / name)
    files = list(_weight_files(path))
    if not files:
        raise ModelError(
            f"{path} holds no model",
            hint="give a file or a diffusers folder with model_index.json; inspect takes a run's folder too",
        )
    opened = [(prefix, open_weights(file)) for prefix, file in files]
    entries = {f"{prefix}{name}": entry for prefix, file in opened for name, entry in file.entries.items()}
    return Contents(
        path=path,
        form="folder",
        size_bytes=sum(file.stat().st_size for file in {entry.path for entry in entries.values()}),
        tensors={name: TensorFacts(entry.dtype, entry.shape) for name, entry in entries.items()},
        configs=_read_configs(path),
        _entries=entries,
    )


def _weight_files(path: Path) -> Iterator[tuple[str, Path]]:
    """List each part's weights, the best of its variants; the part as prefix, "" for the folder itself."""
    for folder in (path, *sorted(inner for inner in path.iterdir() if inner.is_dir())):
        candidates = (folder / name for stem in _STEMS for name in weight_names(stem))
        if file := next((candidate for candidate in candidates if candidate.is_file()), None):
            yield ("" if folder == path else f"{folder.name}/"), file


def _read_configs(path: Path) -> dict[str, Mapping[str, Any]]:
    configs: dict[str, Mapping[str, Any]] = {}
    for file in [*path.glob("*.json"), *path.glob("*/*config.json")]:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read: {error}") from error
        if isinstance(content, dict):
            configs[file.relative_to(path).as_posix()] = content
    return configs


def _open_picture(path: Path) -> Contents:
    """Open a picture with an embedding inside, as webui writes it."""
    from sdtune.formats.card import read_card_content

    content = read_card_content(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} is a picture without an embedding inside", hint="give another file")
    return _held_contents(path, "picture", content, dict(_flatten(content)))


def _held_contents(path: Path, form: Form, plain: Any, held: dict[str, Tensor]) -> Contents:
    return Contents(
        path=path,
        form=form,
        size_bytes=path.stat().st_size,
        tensors={name: TensorFacts(_dtype_name(tensor), tuple(tensor.shape)) for name, tensor in held.items()},
        plain=plain,
        _held=held,
    )


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Name the tensors of nested containers by their keys, joined with dots."""
    import torch

    if isinstance(value, torch.Tensor):
        yield prefix, value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, item in items:
        yield from _flatten(item, f"{prefix}.{key}" if prefix else str(key))


def _dtype_name(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    short = {"float": "F", "bfloat": "BF", "int": "I", "uint": "U"}
    kind = name.rstrip("0123456789")
    return f"{short[kind]}{name[len(kind) :]}" if kind in short else name.upper()


TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
_CODES = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b", "U8": "B", "BOOL": "?"}


def _read_raw(entry: Entry) -> Tensor:
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[entry.dtype])
    size = entry.end - entry.start
    with entry.path.open("rb") as file:
        file.seek(entry.start)
        data = bytearray(file.read(size))
    if len(data) < size:
        raise ModelError(f"{entry.path.name} ended early while being read", hint="download it again")
    flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return flat.reshape(entry.shape) if entry.strides is None else flat.as_strided(entry.shape, entry.strides)


def _decode(data: bytes, dtype: str) -> list[float]:
    """Turn little-endian bytes into numbers; a dtype that is not read gives none."""
    if dtype == "BF16":  # the upper half of a float32
        data, dtype = b"".join(bytes(2) + data[i : i + 2] for i in range(0, len(data), 2)), "F32"
    code = _CODES.get(dtype)
    return [float(value) for (value,) in struct.iter_unpack(f"<{code}", data)] if code else []
