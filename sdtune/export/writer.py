"""From an artifact to a file that other programs load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from sdtune.errors import NumericsError
from sdtune.export.artifact import Artifact, BytesArtifact, FolderArtifact, PickledArtifact
from sdtune.export.container import encode_header, hash_body, hash_legacy, iter_body
from sdtune.export.metadata import build_metadata
from sdtune.export.pickled import encode_pickled
from sdtune.files import write_bytes, writing, writing_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from sdtune.export.artifact import AnyArtifact
    from sdtune.train.info import RunInfo

Precision = Literal["fp32", "fp16", "bf16"]

_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def write_artifact(
    artifact: AnyArtifact,
    info: RunInfo | None,
    folder: Path,
    *,
    dtype: Precision,
    overwrite: bool = False,
    with_captions: bool = True,
) -> Path:
    """Write an artifact into `folder`; equal inputs give equal bytes.

    Args:
        artifact: What to write.
        info: Facts of the run, for the metadata; its dates, never the clock's. None: the file was made without a run.
        folder: Made when it is missing.
        dtype: What floating tensors are cast to, except `artifact.keep_dtype`.
        overwrite: Replace a file of that name.
        with_captions: Count the captions' tags in the metadata.

    Raises:
        NumericsError: A tensor holds NaN or infinity, or a number too large for `dtype`.
        ConfigError: The file is there, and may not be replaced.
        PlatformError: The file cannot be written.
    """
    match artifact:
        case Artifact():
            tensors = dict(_cast_all(artifact.tensors, dtype, artifact.keep_dtype))
            path = folder / f"{artifact.stem}.safetensors"
            metadata = build_metadata(artifact, info, with_captions=with_captions) if info else artifact.metadata
            write_tensors(path, tensors, metadata, overwrite=overwrite)
        case PickledArtifact():
            path = folder / f"{artifact.stem}{artifact.suffix}"
            write_bytes(path, encode_pickled(artifact.content), overwrite=overwrite)
        case BytesArtifact():
            path = folder / f"{artifact.stem}{artifact.suffix}"
            write_bytes(path, artifact.content, overwrite=overwrite)
        case FolderArtifact():
            path = folder / artifact.stem
            write_folder(path, artifact.files, dtype=dtype, overwrite=overwrite)
    return path


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool) -> None:
    """Write a `.safetensors` file with the hashes that webuis and model sites look for.

    Args:
        path: The file; its folder is made when it is missing.
        tensors: Name to tensor, contiguous, on the CPU.
        metadata: All but the hashes; old ones are replaced.
        overwrite: Replace a file of that name.

    Raises:
        ConfigError: The file is there, and may not be replaced.
        PlatformError: The file cannot be written.
    """
    _write_tensors(path, tensors, _with_hashes(tensors, metadata), overwrite=overwrite)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, overwrite: bool) -> None:
    header = encode_header(tensors, metadata)
    size = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    with writing(path, overwrite=overwrite, size=size) as draft, draft.open("wb") as file:
        file.write(header)
        file.writelines(iter_body(tensors))


def write_folder(
    path: Path,
    files: Mapping[str, Mapping[str, Tensor] | bytes],
    *,
    dtype: Precision | None = None,
    overwrite: bool = False,
) -> None:
    """Write a folder.

    Args:
        path: The folder.
        files: Path inside with `/` to tensors (a `.safetensors` file) or to bytes.
        dtype: What floating tensors are cast to; None: as they are.
        overwrite: Replace a folder of that name, with all that is in it.

    Raises:
        NumericsError: A tensor holds NaN or infinity, or a number too large for `dtype`.
        ConfigError: The folder is there, and may not be replaced.
        PlatformError: The folder cannot be written.
    """
    with writing_folder(path, overwrite=overwrite) as draft:
        for name, content in files.items():
            target = draft / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:  # diffusers asks for the entry `format`
                tensors = content if dtype is None else dict(_cast_all(content, dtype, ()))
                _write_tensors(target, tensors, {"format": "pt"}, overwrite=False)


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


def _cast_all(
    tensors: Mapping[str, Tensor], dtype: Precision, keep_dtype: tuple[str, ...]
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        keeps = name.endswith(keep_dtype) or not tensor.is_floating_point()
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
