"""Checkpoints: written whole or not at all, checked before they are believed.

A checkpoint is a folder `step-00000100` of `parameters.safetensors`, `optimizer.safetensors`, `state.json`, with a
running average `ema.safetensors`, and `manifest.json`, which holds the SHA-256 of the others. It is built under a
temporary name, flushed to the disk, and renamed once.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sdtune.errors import ModelError, PlatformError
from sdtune.files import hash_file, writing_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

SCHEMA = 2
_PREFIX = "step-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """What a run must find unchanged to go on, and where it stood.

    Attributes:
        step: Optimizer steps done.
        dataset: Digest of the images and captions.
        model: Digest of the base model's UNet.
        loss_average: Smoothed loss and its weight.
        optimizer: JSON part of the optimizer's state. The learning rates need none: they follow from the step.
        scaler: State of the fp16 loss scaler; empty without one.
        parts: Digests of the base model's other parts, by name; empty in old checkpoints.
        environment: Versions, device and threads, see `describe_environment`; empty in old checkpoints.
    """

    step: int
    dataset: str
    model: str
    loss_average: tuple[float, float]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    parts: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint in memory: named trained parameters, named optimizer tensors, the position, and the averages."""

    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    position: Position
    ema: Mapping[str, Tensor] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `folder/step-N` atomically, then remove all but the newest `keep`.

    Raises:
        PlatformError: The disk is full or cannot be written; earlier checkpoints are untouched.
    """
    final = folder / f"{_PREFIX}{checkpoint.position.step:08d}"
    if final.exists() and _is_whole(final):
        return final  # a run repeats itself to the last bit, so this is the same checkpoint
    shutil.rmtree(final, ignore_errors=True)
    try:
        with writing_folder(final) as draft:
            _write(draft, checkpoint)
    except (SafetensorError, RuntimeError) as error:
        raise PlatformError(
            f"cannot save the checkpoint: {error}", where=str(folder), hint="free disk space, then --resume"
        ) from error
    for old in list_checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """List complete-looking checkpoints, oldest first; their contents are not yet checked."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.name.startswith(_PREFIX) and path.is_dir()]
    return sorted(found, key=lambda path: path.name)


def latest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest checkpoint that is whole.

    Returns:
        The checkpoint, or None when there was never one, and one line for each damaged one passed over.

    Raises:
        ModelError: There are checkpoints, and all are damaged; nothing is deleted.
    """
    damaged: list[str] = []
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path), damaged
        except ModelError as error:
            damaged.append(str(error))
    if found:
        raise ModelError(
            f"all {len(found)} checkpoints are damaged, first: {damaged[0]}",
            where=str(folder),
            hint="restore one from a backup, or start the run anew in another folder",
        )
    return None, damaged


def load_checkpoint(path: Path) -> Checkpoint:
    """Load one checkpoint after comparing every file with the manifest.

    Raises:
        ModelError: A file is missing, changed, or of another version.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        for name, digest in manifest["files"].items():
            if hash_file(path / Path(name).name) != digest:
                raise ModelError(f"{name} does not match its hash", where=str(path))
        state = json.loads((path / "state.json").read_text())
        if manifest["schema"] != SCHEMA:
            raise ModelError(
                f"checkpoint has format {manifest['schema']}, this version reads {SCHEMA}", where=str(path)
            )
        state["loss_average"] = tuple(state["loss_average"])
        return Checkpoint(
            parameters=load_file(path / "parameters.safetensors"),
            optimizer=load_file(path / "optimizer.safetensors"),
            position=Position(**state),
            ema=load_file(path / "ema.safetensors") if "ema.safetensors" in manifest["files"] else {},
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, PlatformError) as error:
        raise ModelError(f"checkpoint cannot be read: {error}", where=str(path)) from error


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    save_file(_owned(checkpoint.parameters), folder / "parameters.safetensors")
    save_file(_owned(checkpoint.optimizer), folder / "optimizer.safetensors")
    if checkpoint.ema:
        save_file(_owned(checkpoint.ema), folder / "ema.safetensors")
    _write_json(folder / "state.json", asdict(checkpoint.position))
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    _write_json(folder / "manifest.json", {"schema": SCHEMA, "files": files})


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory, as the lookup tables of 8-bit optimizers do.
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _is_whole(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except ModelError:
        return False
    return True
