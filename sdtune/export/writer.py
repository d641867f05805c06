"""From an artifact to a file that other programs load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from sdtune.errors import NumericsError
from sdtune.export.container import encode_header, hash_body, hash_legacy, iter_body
from sdtune.export.metadata import build_metadata
from sdtune.files import writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from sdtune.export.artifact import Artifact
    from sdtune.train.info import RunInfo

Precision = Literal["fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write_artifact(
    artifact: Artifact,
    info: RunInfo,
    folder: Path,
    *,
    dtype: Precision,
    overwrite: bool = False,
    with_captions: bool = True,
) -> Path:
    """Write `STEM.safetensors` into `folder`; equal inputs give equal bytes.

    Args:
        artifact: Tensors and the method's metadata.
        info: Facts of the run, for the metadata; its dates, never the clock's.
        folder: Made when it is missing.
        dtype: What floating tensors are cast to, except `artifact.keep_dtype`.
        overwrite: Replace a file of that name.
        with_captions: Count the captions' tags in the metadata.

    Raises:
        NumericsError: A tensor holds NaN or infinity, or a number too large for `dtype`.
        ConfigError: The file is there, and may not be replaced.
        PlatformError: The file cannot be written.
    """
    if artifact.kind == "hypernetwork":
        raise ValueError("a hypernetwork is a .pt file; no webui reads it as safetensors")
    tensors = dict(_cast_all(artifact, dtype))
    metadata = _with_hashes(tensors, build_metadata(artifact, info, with_captions=with_captions))
    path = folder / f"{artifact.stem}.safetensors"
    with writing(path, overwrite=overwrite) as draft, draft.open("wb") as file:
        file.write(encode_header(tensors, metadata))
        file.writelines(iter_body(tensors))
    return path


def _with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    # The legacy rule sees a file whose header holds the `ss_*` entries alone, as kohya's scripts compute it.
    legacy_header = encode_header(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    body_hash = hash_body(tensors)
    return {
        **metadata,
        "sshs_model_hash": body_hash,
        "sshs_legacy_hash": hash_legacy([legacy_header, *iter_body(tensors)]),
        "modelspec.hash_sha256": f"0x{body_hash}",
    }


def _cast_all(artifact: Artifact, dtype: Precision) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in artifact.tensors.items():
        keeps = name.endswith(artifact.keep_dtype) or not tensor.is_floating_point()
        cast = tensor.detach().to(dtype=tensor.dtype if keeps else _DTYPES[dtype]).cpu().contiguous()
        if not torch.isfinite(cast).all():
            _refuse(name, tensor, dtype)
        yield name, cast


def _refuse(name: str, tensor: Tensor, dtype: Precision) -> None:
    if not torch.isfinite(tensor).all():
        raise NumericsError(
            f"{name} holds NaN or infinity", hint="lower train.lr, and resume from a checkpoint before it broke"
        )
    largest = tensor.abs().max().item()
    limit = torch.finfo(_DTYPES[dtype]).max
    raise NumericsError(
        f"{name} holds {largest:.6g}, and {dtype} ends at {limit:.6g}", hint="choose save.dtype=bf16 or fp32"
    )
