"""`.pt` files that every program reads: the same bytes for the same content, nothing in them but data.

A1111's `modules/safe.py` refuses the members that torch writes today (`.format_version`, `.storage_alignment`) and
every class but a few; ComfyUI reads with `weights_only=True`. So plain containers and tensors alone go in, and the
archive is packed again with `data.pkl`, `version`, `byteorder` and `data/N`, stored, with fixed dates.
"""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch

from sdtune.errors import NumericsError

_LEFT_OUT = (".format_version", ".storage_alignment", ".data/serialization_id")
_DTYPES = {torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8}


def encode_pickled(content: Mapping[Any, Any]) -> bytes:
    """Build a `.pt` file.

    Args:
        content: dict, list, tuple, str, int, float, bool, None, OrderedDict and tensors, nested.

    Raises:
        NumericsError: A tensor holds NaN or infinity.
        TypeError: Something a safe reader would refuse.
    """
    buffer = io.BytesIO()
    torch.save(_plain(content, ""), buffer)
    return _pack_again(buffer.getvalue())


def _pack_again(data: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            if not info.filename.endswith(_LEFT_OUT):
                new.writestr(zipfile.ZipInfo(info.filename, (1980, 1, 1, 0, 0, 0)), old.read(info))
    return packed.getvalue()


def _plain(value: Any, place: str) -> Any:
    """Copy content with its tensors contiguous on the CPU, each with a memory of its own."""
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, place)
    if type(value) in (dict, OrderedDict) or (isinstance(value, Mapping) and not isinstance(value, dict)):
        pairs = ((_plain(key, place), _plain(item, f"{place}/{key}")) for key, item in value.items())
        return OrderedDict(pairs) if isinstance(value, OrderedDict) else dict(pairs)
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{place}/{index}") for index, item in enumerate(value))
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise TypeError(f"{place or 'the content'} is a {type(value).__name__}, which safe readers refuse")


def _plain_tensor(value: torch.Tensor, place: str) -> torch.Tensor:
    if value.dtype not in _DTYPES:
        raise TypeError(f"{place} is a tensor of {value.dtype}, which webui's reader refuses")
    if not torch.isfinite(value).all():
        raise NumericsError(
            f"{place} holds NaN or infinity", hint="lower train.lr, and resume from a checkpoint before it broke"
        )
    return value.detach().to("cpu", copy=True).contiguous()
