"""Read a `.pt` file as A1111's webui does: a second implementation of the rules of its `modules/safe.py`."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MEMBER = re.compile(r"[^/]+/(data\.pkl|data/[0-9]+|version|byteorder|\.data/serialization_id)")
GLOBALS = frozenset(
    """
    collections.OrderedDict
    torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter torch._utils._rebuild_device_tensor_from_numpy
    torch.FloatStorage torch.HalfStorage torch.IntStorage torch.LongStorage torch.DoubleStorage torch.ByteStorage
    torch.BFloat16Storage torch.float32 torch.nn.modules.container.ParameterDict
    numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct numpy.dtype numpy.ndarray _codecs.encode
    pytorch_lightning.callbacks.ModelCheckpoint pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint
    __builtin__.set
    """.split()
)
_LEGACY_PICKLES = 5  # magic number, protocol, system, content, keys of storages


def load_like_webui(path: Path) -> Any:
    """Load a `.pt` file if A1111's webui (since June 2024) and, as ComfyUI does it, `weights_only=True` read it.

    Args:
        path: A zip archive as `torch.save` writes it, or the five pickles of its form before 2020.

    Returns:
        The content, tensors on the CPU.

    Raises:
        ValueError: One of them refuses the file; the text says why.
    """
    if zipfile.is_zipfile(path):
        _check_archive(path)
    else:
        with path.open("rb") as file:
            _check_pickles(file, _LEGACY_PICKLES)
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"torch.load(weights_only=True) refuses the file: {error}") from error


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if strangers := [name for name in names if not MEMBER.fullmatch(name)]:
            raise ValueError(f"the webui refuses the member {strangers[0]!r} of the archive")
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"the webui wants one data.pkl, the archive has {len(pickles)}")
        with archive.open(pickles[0]) as file:
            _check_pickles(file, 1)


def _check_pickles(file: Any, count: int) -> None:
    reader = _SafeReader(file)
    try:
        for _ in range(count):
            reader.load()
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError, UnicodeError) as error:
        raise ValueError(f"the webui cannot read the file: {error}") from error


class _SafeReader(pickle.Unpickler):
    """Follows a pickle, refuses what the webui refuses, and builds nothing: every class is a stand-in."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")

    def persistent_load(self, saved_id: Any) -> _Inert:
        """Give a stand-in for a storage; nothing else may be stored apart."""
        if not (isinstance(saved_id, tuple) and saved_id and saved_id[0] in ("storage", b"storage")):
            raise ValueError(f"the webui refuses {saved_id!r} where a storage should stand")
        return _Inert()

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Give a stand-in for an allowed name."""
        if f"{module}.{name}" not in GLOBALS:
            raise ValueError(f"the webui refuses the name {module}.{name}")
        return OrderedDict if name == "OrderedDict" else _Inert


class _Inert:
    """Takes what a pickle does to an object, and does nothing."""

    def __init__(self, *args: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...
