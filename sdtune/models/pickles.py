"""Guarded reading of `.ckpt`, `.pt`, `.pth` and `.bin`, the files of `torch.save`: no code in them is ever run.

`torchfile` looks at such a file in a process of its own, with limits, and tells what is in it and where each tensor
lies. Here tensors are read from there, as from a safetensors file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import sdtune
from sdtune.errors import ModelError
from sdtune.models.tensors import Entry

SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin"})
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
    """Read a small file of `torch.save`: an embedding, a hypernetwork, a training state.

    Returns:
        dict, OrderedDict, list, tuple, set, bytes, str, int, float, bool, None and CPU tensors, nested as in the file,
        a `LeftOut` in the place of anything else. Parameters are plain tensors; a ParameterDict is a dict.

    Raises:
        ModelError: The file is missing, over 1 GiB, damaged, no file of `torch.save`, or holds code.
    """
    if path.is_file() and path.stat().st_size > PLAIN_LIMIT_BYTES:
        raise ModelError(f"{path} has over 1 GiB, too much for a file of this kind")
    return _plain(path, read_layout(path))


def read_layout(path: Path) -> Any:
    """Tell what a file of `torch.save` holds, as `torchfile.read_content` does, in a limited process.

    Raises:
        ModelError: See `read_plain`.
    """
    if not path.exists():
        raise ModelError(f"there is no file {path}", hint="check the path")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a file")
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
    return answer["content"]


def _plain(path: Path, value: Any) -> Any:
    """Turn a layout into content, tensors read."""
    if not isinstance(value, list):
        return value
    kind, *content = value
    match kind:
        case "tensor":
            return entry_of(path, content).read()
        case "bytes":
            return bytes.fromhex(content[0])
        case "left out":
            return LeftOut(content[0])
        case "dict" | "ordered":
            pairs = [(_plain(path, key), _plain(path, item)) for key, item in content[0]]
            return OrderedDict(pairs) if kind == "ordered" else dict(pairs)
    return _SEQUENCES[kind](_plain(path, item) for item in content[0])


_SEQUENCES: dict[str, type[Any]] = {"list": list, "tuple": tuple, "set": set}


def entry_of(path: Path, content: list[Any]) -> Entry:
    """Give the place of a tensor from its layout without the first word."""
    dtype, shape, start, end, strides = content
    return Entry(
        path=path,
        dtype=dtype,
        shape=tuple(shape),
        start=start,
        end=end,
        strides=None if strides is None else tuple(strides),
    )
