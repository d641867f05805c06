"""Guarded reading of `.ckpt`, `.pt`, `.pth` and `.bin`, the files of `torch.save`: no code in them is ever run.

`torchfile` looks at such a file in a process of its own, with limits, and tells what is in it and where each tensor
lies. Here tensors are read from there, as from a safetensors file.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdtune
from sdtune.errors import ModelError
from sdtune.models.tensors import Entry, TensorFile, check_is_file, check_name

if TYPE_CHECKING:
    from collections.abc import Iterator

LOG = logging.getLogger(__name__)
PLAIN_LIMIT_BYTES = 1 << 30
_TIMEOUT_S = 60
_CHILD = "import sys; sys.path.append(sys.argv[1]); from sdtune.models.torchfile import main; main()"
_REMEDY = "use the model's .safetensors file"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something in a file that is neither plain nor a tensor, and was not read.

    Attributes:
        name: Its class, e.g. `numpy.core.multiarray.scalar`.
    """

    name: str


def read_plain(path: Path) -> Any:
    """Read a small file of `torch.save`, such as an embedding.

    Returns:
        dict, OrderedDict, list, tuple, set, bytes, str, int, float, bool, None and CPU tensors, nested as in the file,
        a `LeftOut` in the place of anything else. Parameters are plain tensors; a ParameterDict is a dict.

    Raises:
        ModelError: The file is missing, over 1 GiB, damaged, no file of `torch.save`, or holds code.
    """
    if path.is_file() and path.stat().st_size > PLAIN_LIMIT_BYTES:
        raise ModelError(f"{path} has over 1 GiB, too much for a file of this kind")
    return _plain(path, read_layout(path), "")


def read_layout(path: Path) -> Any:
    """Tell what a file of `torch.save` holds, as `torchfile.read_content` does, in a limited process.

    Raises:
        ModelError: See `read_plain`.
    """
    check_is_file(path)
    stat = path.stat()
    return _remembered_layout(path.resolve(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=4)
def _remembered_layout(path: Path, *_: int) -> Any:
    root = Path(sdtune.__file__).parents[1]
    command = [sys.executable, "-I", "-S", "-c", _CHILD, str(root), str(path)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{path.name} takes longer to look at than any model", where=str(path), hint=_REMEDY
        ) from error
    if done.returncode:
        raise ModelError(
            f"{path.name} takes more memory or time to look at than any model", where=str(path), hint=_REMEDY
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ModelError(f"{path.name}: {answer['error']}", where=str(path), hint=answer["hint"])
    LOG.info("%s is a pickled file: its tensors are read, and none of its code is run", path)
    return answer["content"]


def _plain(path: Path, value: Any, name: str) -> Any:
    """Turn a layout into content, tensors read."""
    if not isinstance(value, list):
        return value
    kind, *content = value
    match kind:
        case "tensor":
            return _entry(path, content).read(name)
        case "bytes":
            return bytes.fromhex(content[0])
        case "left out":
            return LeftOut(content[0])
        case "dict" | "ordered":
            pairs = [(_plain(path, key, name), _plain(path, item, _inside(name, key))) for key, item in content[0]]
            return OrderedDict(pairs) if kind == "ordered" else dict(pairs)
    return _SEQUENCES[kind](_plain(path, item, _inside(name, index)) for index, item in enumerate(content[0]))


_SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set}


def _entry(path: Path, place: list[Any]) -> Entry:
    dtype, shape, start, end, strides = place
    strides = None if strides is None else tuple(strides)
    return Entry(path=path, dtype=dtype, shape=tuple(shape), start=start, end=end, strides=strides)


def open_pickled(path: Path) -> TensorFile:
    """Open a file of `torch.save` as a file of named tensors; none is read yet.

    What lies in `state_dict` is taken out, as in checkpoints of Stable Diffusion; the numbers and words beside it
    become the file's metadata. Other nested content is told with dots: `a.b`, `a.0`.

    Raises:
        ModelError: See `read_plain`; or the file holds no named tensors, or one name twice.
    """
    content = read_layout(path)
    if not _is_mapping(content):
        raise ModelError(f"{path.name} holds no named tensors", where=str(path), hint=_REMEDY)
    outer = {key: value for key, value in content[1] if isinstance(key, str)}
    inner = outer.get("state_dict")
    entries: dict[str, Entry] = {}
    for name, place in _named_tensors(inner if _is_mapping(inner) else content, ""):
        if name in entries:
            raise ModelError(f"{path.name} holds two tensors named {name}", where=str(path), hint=_REMEDY)
        entries[_checked(path, name)] = _entry(path, place)
    metadata = {key: str(value) for key, value in outer.items() if isinstance(value, str | int | float)}
    return TensorFile(path=path, entries=entries, metadata=metadata)


def _named_tensors(value: Any, name: str) -> Iterator[tuple[str, list[Any]]]:
    """Walk a layout for its tensors."""
    if not isinstance(value, list):
        return
    kind, *content = value
    if kind == "tensor":
        yield name, content
    elif kind in ("dict", "ordered"):
        for key, item in content[0]:
            yield from _named_tensors(item, _inside(name, key))
    elif kind in _SEQUENCES:
        for index, item in enumerate(content[0]):
            yield from _named_tensors(item, _inside(name, index))


def _inside(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, list) and value[0] in ("dict", "ordered")


def _checked(path: Path, name: str) -> str:
    try:
        return check_name(name)
    except ValueError as error:
        raise ModelError(f"{path.name}: {error}", where=str(path), hint=_REMEDY) from error
