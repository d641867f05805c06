"""What lies behind a checkpoint that a run goes back to: kept under another name, never deleted."""

from __future__ import annotations

import os
import re
import shutil
from itertools import count
from typing import TYPE_CHECKING

from sdtune.errors import PlatformError
from sdtune.train.saving.checkpoint import list_checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.train.saving.folder import RunFolder

_CHECKPOINT = re.compile(r"step-(\d+)")


def set_aside(folder: RunFolder, step: int) -> Path | None:
    """Move checkpoints of steps after `step` out of the way, newest first, and copy what those steps wrote beside them.

    Returns:
        The folder `before-going-back-to-N` with all of it, or None where no step is later.

    Raises:
        PlatformError: It cannot be written; what was not moved yet is where it was.
    """
    later = [path for path in list_checkpoints(folder.checkpoints) if checkpoint_step(path) > step]
    if not later:
        return None
    target = free_name(folder.path / f"before-going-back-to-{step:08d}")
    try:
        _copy_results(folder, target)
        (target / folder.checkpoints.name).mkdir(parents=True)
        for path in reversed(later):
            path.rename(target / folder.checkpoints.name / path.name)
    except OSError as error:
        raise PlatformError(f"cannot set later checkpoints aside: {error.strerror}", where=str(target)) from error
    return target


def checkpoint_step(path: Path) -> int:
    """Give the step of a checkpoint's folder by its name; -1 for other names."""
    match = _CHECKPOINT.fullmatch(path.name)
    return int(match[1]) if match else -1


def keep_results(folder: RunFolder, step: int) -> Path | None:
    """Keep the files of a finished run that is made longer, since those of the longer run have the same names.

    Raises:
        PlatformError: They cannot be written.
    """
    if not folder.exports.is_dir():
        return None
    target = free_name(folder.path / f"exports-step-{step:08d}")
    try:
        shutil.copytree(folder.exports, target, copy_function=_link)
    except OSError as error:
        raise PlatformError(f"cannot keep the finished files: {error.strerror}", where=str(target)) from error
    return target


def free_name(path: Path) -> Path:
    """Give a path that is not taken: this one, or with `-2`, `-3`, ... before its suffix."""
    names = (path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())


def _copy_results(folder: RunFolder, target: Path) -> None:
    target.mkdir(parents=True)
    for path in (folder.metrics, folder.config, folder.facts, folder.grid):
        if path.exists():
            shutil.copy2(path, target / path.name)
    if folder.previews.is_dir():
        shutil.copytree(folder.previews, target / folder.previews.name)
    if folder.exports.is_dir():
        shutil.copytree(folder.exports, target / folder.exports.name, copy_function=_link)


def _link(source: str, target: str) -> None:
    """Name a file a second time, or copy it where the disk knows no such names; exports are replaced, never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
