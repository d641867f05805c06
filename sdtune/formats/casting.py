"""Tensors in another dtype, refused where numbers would be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdtune.formats.outputs import Precision

DTYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SHORT = {dtype: name for name, dtype in DTYPES.items()}


def cast(name: str, tensor: Tensor, dtype: Precision | None) -> Tensor:
    """Cast a floating tensor; None gives it as it is, to the last bit.

    Raises:
        ModelError: It holds a number too large for `dtype`.
    """
    if dtype is None or not tensor.is_floating_point():
        return tensor.contiguous()
    new = tensor.to(DTYPES[dtype]).contiguous()
    if not torch.equal(new.isfinite(), tensor.isfinite()):
        limit = torch.finfo(DTYPES[dtype]).max
        raise ModelError(f"{name} holds numbers above {limit:.6g}, where {dtype} ends", hint="choose bf16 or fp32")
    return new


def cast_all(tensors: Mapping[str, Tensor], dtype: Precision | None, keep: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Cast tensors as `cast` does, except those whose names end with one of `keep`."""
    return {
        name: cast(name, tensor, None if keep and name.endswith(keep) else dtype) for name, tensor in tensors.items()
    }


def cast_in_place(tensors: dict[str, Tensor], dtype: Precision | None) -> None:
    """Cast a model's tensors as `cast` does, one after the other, so that it is in memory once."""
    for name in tensors:
        tensors[name] = cast(name, tensors[name], dtype)


def short_name(dtype: torch.dtype) -> str:
    """Name a dtype as `--dtype` does, else as torch does."""
    return _SHORT.get(dtype, str(dtype).removeprefix("torch."))
