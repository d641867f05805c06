"""Checkpoints: written whole or not at all, checked before they are believed.

A checkpoint is a folder `step-00000100` of `parameters.safetensors`, `optimizer.safetensors`, `state.json`, with a
running average `ema.safetensors`, and `manifest.json`, which holds the SHA-256 of the others. It is built under a
temporary name, flushed to the disk, and renamed once. One that turns out damaged is renamed `damaged-step-00000100`
and kept: it is not counted, and nothing but the user removes it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sdtune.errors import ModelError, PlatformError
from sdtune.files import hash_file, remove_folder, writing_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

logger = logging.getLogger(__name__)
SCHEMA = 2
_NAME = re.compile(r"step-(\d+)")
_DAMAGED = "damaged-"


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

    @property
    def size_bytes(self) -> int:
        """About what it takes on the disk."""
        kinds = (self.parameters, self.optimizer, self.ema)
        return sum(tensor.nbytes for tensor in chain.from_iterable(kind.values() for kind in kinds))


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `folder/step-N` atomically, then remove all but the newest `keep`.

    Raises:
        PlatformError: The disk is full or cannot be written; earlier checkpoints are untouched.
    """
    final = folder / f"step-{checkpoint.position.step:08d}"
    if final.exists():
        if _is_whole(final):
            return final  # a run repeats itself to the last bit, so this is the same checkpoint
        _set_aside(final)
    try:
        with writing_folder(final, size=checkpoint.size_bytes) as draft:
            _write(draft, checkpoint)
    except PlatformError as error:
        raise PlatformError(f"the checkpoint is not saved: {error}", hint="then go on with --resume") from error
    for old in list_checkpoints(folder)[:-keep]:
        try:
            remove_folder(old)
        except PlatformError as error:
            logger.warning("an old checkpoint stays: %s", error)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """List complete-looking checkpoints, oldest first; their contents are not yet checked."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def latest_checkpoint(folder: Path, *, renames: bool = True) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest checkpoint that is whole.

    Args:
        folder: The run's checkpoints.
        renames: Damaged ones that are newer get other names, so that nothing replaces them; hold the run for that.

    Returns:
        The checkpoint, or None when there was never one, and one line for each damaged one passed over.

    Raises:
        ModelError: There are checkpoints, and all are damaged; nothing is changed.
    """
    damaged: list[tuple[Path, str]] = []
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            checkpoint = load_checkpoint(path)
        except ModelError as error:
            damaged.append((path, str(error)))
            continue
        if not renames:
            return checkpoint, [reason for _, reason in damaged]
        return checkpoint, [f"{reason}; kept as {_set_aside(bad).name}" for bad, reason in damaged]
    if found:
        raise ModelError(
            f"all {len(found)} checkpoints are damaged, first: {damaged[0][1]}",
            where=str(folder),
            hint="restore one from a backup, or start the run anew in another folder",
        )
    return None, []


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
    _save_tensors(folder / "parameters.safetensors", checkpoint.parameters)
    _save_tensors(folder / "optimizer.safetensors", checkpoint.optimizer)
    if checkpoint.ema:
        _save_tensors(folder / "ema.safetensors", checkpoint.ema)
    _write_json(folder / "state.json", asdict(checkpoint.position))
    files = {path.name: hash_file(path) for path in sorted(folder.iterdir())}
    _write_json(folder / "manifest.json", {"schema": SCHEMA, "files": files})


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file(_owned(tensors), path)
    except SafetensorError as error:  # of the system's errors it keeps the number in its text alone
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error)) from error


def _set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is neither read nor counted nor replaced."""
    names = (f"{_DAMAGED}{path.name}{'-' * bool(number)}{number or ''}" for number in count())
    aside = next(place for name in names if not (place := path.with_name(name)).exists())
    try:
        return path.rename(aside)
    except OSError as error:
        raise PlatformError(f"cannot rename {path}: {error.strerror}", hint="see who owns it") from error


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
