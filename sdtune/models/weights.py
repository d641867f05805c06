"""Where weights lie: a safetensors file, a file of `torch.save` behind its guard, or several files with an index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models.pickles import open_pickled
from sdtune.models.tensors import TensorFile, check_is_file, is_pickled, read_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PICKLED_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
WEIGHT_SUFFIXES = PICKLED_SUFFIXES | {".safetensors"}
_PICKLED_STEM = {"model": "pytorch_model"}  # transformers' name of a .bin; diffusers changes the suffix alone
_VARIANTS = ("", ".fp32", ".fp16", ".bf16")  # full precision first
_INDEX_LIMIT_BYTES = 16_000_000
_AGAIN = "download the folder again"


def open_weights(path: Path) -> TensorFile:
    """Open weights by what the file holds, whatever its name; no tensor is read yet.

    Args:
        path: A safetensors file; a file of `torch.save` named `.ckpt`, `.pt`, `.pth` or `.bin`; or the index of weights
            in several files, `….index.json`.

    Raises:
        ModelError: The file is missing, a folder, damaged, a pickle under another name, or holds code.
    """
    check_is_file(path)
    if path.suffix.lower() == ".json":
        return _open_shards(path)
    if path.suffix.lower() in PICKLED_SUFFIXES and _starts_pickled(path):
        return open_pickled(path)
    return read_header(path)


def find_weights(folder: Path, stem: str) -> Path:
    """Find the weights of a model's part in a diffusers folder: safetensors first, then full precision first.

    Args:
        folder: E.g. `unet`.
        stem: `diffusion_pytorch_model` or `model`.

    Raises:
        ModelError: There are none.
    """
    for name in weight_names(stem):
        if (file := folder / name).exists():
            return file
    found = sorted(file.name for file in folder.iterdir() if file.suffix in {*WEIGHT_SUFFIXES, ".json"})
    raise ModelError(f"{folder} has no {stem}.safetensors; found: {', '.join(found) or 'nothing'}", hint=_AGAIN)


def weight_names(stem: str) -> Iterator[str]:
    """List the names that weights may have in a folder, the best first; of two forms of an index, diffusers' first."""
    for ending, name in (("safetensors", stem), ("bin", _PICKLED_STEM.get(stem, stem))):
        for variant in _VARIANTS:
            yield f"{name}{variant}.{ending}"
            yield f"{name}.{ending}.index{variant}.json"
            if variant:
                yield f"{name}{variant}.{ending}.index.json"


def _starts_pickled(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return is_pickled(file.read(9))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_shards(index: Path) -> TensorFile:
    """Open the files that an index names, as one."""
    places = _read_index(index)
    names = sorted(set(places.values()))
    if gone := [name for name in names if not (index.parent / name).exists()]:
        text = f"{index.name} names {len(names)} files, of which {len(gone)} are not there ({gone[0]})"
        raise ModelError(text, where=str(index), hint=_AGAIN)
    files = {name: open_weights(index.parent / name) for name in names}
    lost = [name for name, file in places.items() if name not in files[file].entries]
    if lost:
        raise ModelError(
            f"{index.name} names {len(lost)} tensors that its files lack ({lost[0]})",
            where=str(index),
            hint=_AGAIN,
        )
    entries = {name: files[file].entries[name] for name, file in places.items()}
    return TensorFile(path=index, entries=entries, metadata={})


def _read_index(index: Path) -> Mapping[str, str]:
    if index.stat().st_size > _INDEX_LIMIT_BYTES:
        raise ModelError(f"{index} is too large for an index of weights")
    try:
        places: Any = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(file) for file in places.values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is no index of weights", hint=_AGAIN) from error
    outside = [name for name in names if Path(name).name != name or Path(name).suffix not in WEIGHT_SUFFIXES]
    if outside:
        raise ModelError(f"{index} names {outside[0]!r}, which is no file with weights beside it", hint=_AGAIN)
    return {str(name): str(file) for name, file in places.items()}
