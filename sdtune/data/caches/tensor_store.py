"""Tensors kept under a key of what they were computed from: in memory, or on disk in shards."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from safetensors import torch as tensors_as_bytes

from sdtune import paths
from sdtune.data.caches.lock import CacheUse
from sdtune.data.caches.shard_table import ShardTable
from sdtune.data.caches.shards import KEY_BYTES, SUFFIX, BadShardError, Shard, read_entry, read_shard, write_shard
from sdtune.errors import PlatformError
from sdtune.files import sweep_drafts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from sdtune.config.cache import CacheOptions

KINDS = ("latents", "text")
SHARD_ENTRIES, SHARD_BYTES, SHARD_SECONDS = 256, 64 * 2**20, 60.0
_KEY_VERSION = "1"


class TensorStore(ABC):
    """Keep groups of tensors by key; a key always stands for the same tensors."""

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Give the tensors of a key; None where there are none, or they are damaged."""
        data = self._read(bytes.fromhex(key))
        return None if data is None else tensors_as_bytes.load(data)

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep copies of tensors.

        Raises:
            PlatformError: They are kept on disk, which is full or cannot be written.
        """
        self._keep(bytes.fromhex(key), tensors_as_bytes.save(_copies(tensors)))

    @abstractmethod
    def flush(self) -> None:
        """See to it that what was saved outlives the process, where the store is on disk.

        Raises:
            PlatformError: As `save`.
        """

    @abstractmethod
    def missing(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Give the places of keys, as `pack_keys` packs them, that have no sound entry; every entry is read for it."""

    @abstractmethod
    def _read(self, key: bytes) -> bytes | None: ...

    @abstractmethod
    def _keep(self, key: bytes, data: bytes) -> None: ...


class RamStore(TensorStore):
    """Keep tensors for the life of the process, as bytes: 300 beside those of the numbers, where tensors take 2,000."""

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}

    def flush(self) -> None:
        """Do nothing."""

    def missing(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Give the places of keys that have no entry."""
        return _where(key not in self._entries for key in _unpacked(keys))

    def _read(self, key: bytes) -> bytes | None:
        return self._entries.get(key)

    def _keep(self, key: bytes, data: bytes) -> None:
        self._entries[key] = data


class ShardStore(TensorStore):
    """Keep tensors in shards of a folder; several processes may write to it, each its own shards.

    Entries gather in memory until they make a shard: 256 of them, 64 MB, or a minute's. A killed process loses these,
    and no more. Every entry is checked by its digest whenever it is read.

    Args:
        folder: Made when something is written.
        entries: Entries that make a shard.
    """

    def __init__(self, folder: Path, *, entries: int = SHARD_ENTRIES) -> None:
        self.folder = folder
        self._limit = entries
        self._open: dict[bytes, bytes] = {}
        self._open_bytes, self._opened_at = 0, 0.0
        self._known: set[str] = set()
        self._table = ShardTable()
        self._mutex = threading.Lock()
        self._use: CacheUse | None = None
        sweep_drafts(folder, is_alone=False, depth="here")

    def missing(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Give the places of keys that have no sound entry; shards that have one are marked as used now."""
        self._refresh()
        order = self._table.order(keys)
        is_missing = np.ones(len(keys), bool)
        used: set[Path] = set()
        for place, key in zip(order, _unpacked(keys[order]), strict=True):
            path, _ = self._find(key)
            is_missing[place] = path is None and key not in self._open
            used |= {path} if path else set()
        for path in used:
            _mark_used(path)
        return np.flatnonzero(is_missing)

    @property
    def index_bytes(self) -> int:
        """Memory that knowing all entries takes."""
        return self._table.rows.nbytes

    def flush(self) -> None:
        """Write the open shard."""
        if not self._open:
            return
        with suppress(OSError):  # told when the shard is written
            self.folder.mkdir(parents=True, exist_ok=True)
        self._claim()
        try:
            write_shard(self.folder, self._open)
        except PlatformError as error:
            raise PlatformError(
                f"the cache is not kept: {error}", hint="or set data.cache.dir to another folder"
            ) from error
        self._open, self._open_bytes = {}, 0

    def _keep(self, key: bytes, data: bytes) -> None:
        if not self._open:
            self._opened_at = time.monotonic()
        self._open[key] = data
        self._open_bytes += len(data)
        is_old = time.monotonic() - self._opened_at >= SHARD_SECONDS
        if len(self._open) >= self._limit or self._open_bytes >= SHARD_BYTES or is_old:
            self.flush()

    def _read(self, key: bytes) -> bytes | None:
        if key in self._open:
            return self._open[key]
        table, data = self._table, self._find(key)[1]
        if data is None:
            self._refresh()  # another process may have written it
            data = None if table is self._table else self._find(key)[1]
        return data

    def _find(self, key: bytes) -> tuple[Path, bytes] | tuple[None, None]:
        """Read an entry, and tell its shard; of several equal ones the first that is whole."""
        table = self._table
        for row in table.find(key):
            if (data := read_entry(table.place(row), row)) is not None:
                return table.place(row), data
        return None, None

    def _refresh(self) -> None:
        """Take in shards that are there by now."""
        with self._mutex:
            self._claim()
            new = [path for path in list_shards(self.folder) if path.name not in self._known]
            if shards := list(_read_shards(new)):
                self._known |= {shard.path.name for shard in shards}
                self._table = self._table.joined(shards)

    def _claim(self) -> None:
        if self._use is None and self.folder.is_dir():
            self._use = CacheUse(self.folder)


def open_store(mode: Literal["disk", "ram"], kind: str, options: CacheOptions) -> TensorStore:
    """Open the store of a kind of entries, e.g. `latents`, in the folder the options name."""
    return RamStore() if mode == "ram" else ShardStore(cache_folder(options) / kind)


def cache_folder(options: CacheOptions) -> Path:
    """Give the cache folder: `data.cache.dir`, or the user's cache folder."""
    return paths.cache_folder(options.dir)


def list_shards(folder: Path) -> list[Path]:
    """List the files of a cache that are named as shards are, in order of name."""
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if _is_hex(path.stem, 2 * KEY_BYTES))


def content_key(*parts: object) -> str:
    """Hash what an entry is computed from to its key (hex)."""
    text = "\x1f".join([_KEY_VERSION, *(f"{type(part).__name__}:{part}" for part in parts)])
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=KEY_BYTES).hexdigest()


def pack_keys(keys: Iterable[str]) -> NDArray[np.int64]:
    """Pack N keys (hex) into (N, 2) int64: 16 bytes each."""
    packed = bytearray()
    for key in keys:
        packed += bytes.fromhex(key)
    return np.frombuffer(packed, np.int64).reshape(-1, 2)


def distinct(keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """Give the places at which keys stand for the first time, in order."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    is_first = np.ones(len(keys), bool)
    is_first[1:] = (keys[order][1:] != keys[order][:-1]).any(axis=1)
    return np.sort(order[is_first])


def _unpacked(keys: NDArray[np.int64]) -> Iterator[bytes]:
    return (key.tobytes() for key in keys)


def _where(flags: Iterable[bool]) -> NDArray[np.intp]:
    return np.flatnonzero(np.fromiter(flags, bool))


def _read_shards(paths: Iterable[Path]) -> Iterator[Shard]:
    for path in paths:
        with suppress(BadShardError):  # told and removed by `sdtune cache verify`
            yield read_shard(path)


def _mark_used(path: Path) -> None:
    with suppress(OSError):  # gone, or another user's
        os.utime(path)


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy to the CPU; safetensors refuses tensors that share memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
