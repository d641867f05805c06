"""Looking after caches: every entry is read, damaged ones are dropped, and what no run has used for long is removed."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.caches.lock import CacheUse, held_alone
from sdtune.data.caches.shards import SUFFIX, BadShardError, Shard, read_shard, write_shard
from sdtune.data.caches.tensor_store import KINDS, list_shards
from sdtune.errors import PlatformError
from sdtune.files import sweep_drafts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_DAY_S = 86_400
SCAN = "scan"
"""Folder of what was read of image files; see `data.index.scan`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What reading all entries of a cache gave.

    Attributes:
        entries: Sound entries.
        size_bytes: Bytes of all shards.
        damaged: Shards of which entries are damaged.
        damaged_entries: How many entries that are.
        unreadable: Shards whose index is damaged, so that nothing in them can be found.
        others: Files of another layout, which `prune` removes.
    """

    entries: int = 0
    size_bytes: int = 0
    damaged: tuple[Shard, ...] = ()
    damaged_entries: int = 0
    unreadable: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged."""
        return not (self.damaged or self.unreadable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A file that is to go.

    Attributes:
        path: The file.
        size_bytes: Its size.
        why: `another layout`, `damaged`, `unused` or `room`.
    """

    path: Path
    size_bytes: int
    why: str


def examine(folder: Path) -> Findings:
    """Read every entry of a cache, e.g. of `latents`; nothing is changed."""
    if not folder.is_dir():
        return Findings()
    with closing(CacheUse(folder)):
        found = _sort_out(folder)
        bad = [sum(data is None for _, data in shard.entries()) for shard in found.shards]
    return Findings(
        entries=sum(len(shard.index) for shard in found.shards) - sum(bad),
        size_bytes=sum(_size(shard.path) for shard in found.shards),
        damaged=tuple(shard for shard, count in zip(found.shards, bad, strict=True) if count),
        damaged_entries=sum(bad),
        unreadable=found.unreadable,
        others=found.others,
    )


def drop_damaged(folder: Path, findings: Findings) -> None:
    """Remove what is damaged: shards that cannot be read, and of the others the damaged entries.

    Raises:
        PlatformError: A run uses the cache, or it cannot be written.
    """
    with held_alone(folder):
        for path in findings.unreadable:
            _remove(path)
        for shard in findings.damaged:
            _rewrite(shard)


def plan_removals(root: Path, *, unused_days: float, keep_bytes: int | None = None, now: float) -> list[Removal]:
    """List what may go: other layouts, damaged shards, what no run has used for long, and as much as makes room.

    A shard counts as used whenever a run looks it through, and when it is written. What was used last stays first,
    whatever kind it is. What is remembered of image files counts from when it was written: it is soon read again.

    Args:
        root: The cache folder, with `latents` and `text` in it.
        unused_days: Shards that no run has used for so many days go.
        keep_bytes: What may be left; None: all that is not listed for another reason.
        now: The time, in seconds since 1970.
    """
    removals: list[Removal] = []
    kept: list[tuple[float, Path]] = []
    for kind in KINDS:
        found = _sort_out(root / kind)
        removals += [_removal(path, "another layout") for path in found.others]
        removals += [_removal(path, "damaged") for path in found.unreadable]
        kept += [(_used_at(shard.path), shard.path) for shard in found.shards]
    kept += [(_used_at(path), path) for path in (root / SCAN).glob("*.scan")]
    kept.sort(reverse=True)
    total = 0
    for used_at, path in kept:
        if now - used_at > unused_days * _DAY_S:
            removals.append(_removal(path, "unused"))
        elif keep_bytes is not None and total + _size(path) > keep_bytes:
            removals.append(_removal(path, "room"))
        else:
            total += _size(path)
    return removals


def remove(root: Path, removals: Sequence[Removal]) -> None:
    """Remove files, and what killed processes left beside them.

    Raises:
        PlatformError: A run uses one of the caches, or they cannot be written.
    """
    for removal in removals:
        if removal.path.parent == root / SCAN:  # read whole, and at once: nobody holds it
            _remove(removal.path)
    for kind in KINDS:
        folder = root / kind
        own = [removal.path for removal in removals if folder in removal.path.parents]
        if not own:
            continue
        with held_alone(folder):
            for path in own:
                _remove(path)
            sweep_drafts(folder, is_alone=False)
            for old in _old_folders(folder):
                with suppress(OSError):  # there are other files in it
                    old.rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sorted:
    shards: tuple[Shard, ...]
    unreadable: tuple[Path, ...]
    others: tuple[Path, ...]


def _sort_out(folder: Path) -> _Sorted:
    shards: list[Shard] = []
    unreadable: list[Path] = []
    others = [path for old in _old_folders(folder) for path in old.glob(f"*{SUFFIX}")]
    for path in list_shards(folder):
        try:
            shards.append(read_shard(path))
        except BadShardError as error:
            (others if error.is_foreign else unreadable).append(path)
    return _Sorted(shards=tuple(shards), unreadable=tuple(unreadable), others=tuple(others))


def _old_folders(folder: Path) -> Iterator[Path]:
    """List the folders of the layout with one file for each entry: `ab/KEY.safetensors`."""
    return (path for path in folder.glob("[0-9a-f][0-9a-f]") if path.is_dir())


def _rewrite(shard: Shard) -> None:
    """Put a shard of the sound entries in the place of one that has damaged ones."""
    used_at = _used_at(shard.path)
    if sound := {key: data for key, data in shard.entries() if data is not None}:
        new = write_shard(shard.path.parent, sound)
        with suppress(OSError):
            os.utime(new, (used_at, used_at))
    _remove(shard.path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise PlatformError(f"cannot remove {path}: {error.strerror}") from error


def _removal(path: Path, why: str) -> Removal:
    return Removal(path=path, size_bytes=_size(path), why=why)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _used_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()
