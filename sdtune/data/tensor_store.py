"""Tensors kept under a key of what they were computed from, in memory or one file each."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from sdtune import paths
from sdtune.errors import PlatformError
from sdtune.files import sweep_drafts, writing

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sdtune.config.cache import CacheOptions

SCHEMA_VERSION = "1"


class TensorStore(ABC):
    """Keep groups of tensors by key; a key always stands for the same tensors."""

    @abstractmethod
    def load(self, key: str) -> dict[str, Tensor] | None:
        """Give the tensors of a key; None where there are none, or they were damaged and have been dropped."""

    @abstractmethod
    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors; they are copied to the CPU."""


class RamStore(TensorStore):
    """Keep tensors for the life of the process."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Tensor]] = {}

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Give the tensors of a key, or None."""
        return self._entries.get(key)

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep copies of tensors."""
        self._entries[key] = _copies(tensors)


class DiskStore(TensorStore):
    """Keep tensors in `FOLDER/ab/KEY.safetensors`, written beside and renamed, with a digest that is checked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sweep_drafts(folder, is_alone=False)

    def path(self, key: str) -> Path:
        """Give the file of a key, whether it is there or not."""
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Give the tensors of a key, or None; a file that is damaged or another key's is removed."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            facts, tensors = {}, {}
        if facts == _facts(key, tensors):
            return tensors
        with suppress(OSError):
            path.unlink()
        return None

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors.

        Raises:
            PlatformError: The disk is full or the folder cannot be written.
        """
        entry = _copies(tensors)
        content = save(entry, metadata=_facts(key, entry))
        try:
            # not synced: an entry that a power cut has spoilt is seen by its digest, and computed again
            with writing(self.path(key), overwrite=True, size=len(content), sync=False) as draft:
                draft.write_bytes(content)
        except PlatformError as error:
            raise PlatformError(
                f"the cache is not kept: {error}", hint="or set data.cache.dir to another folder"
            ) from error


def open_store(mode: Literal["auto", "disk", "ram"], kind: str, options: CacheOptions) -> TensorStore:
    """Open the store of a kind of entries, e.g. `latents`, in the folder the options name."""
    return RamStore() if mode in ("ram", "auto") else DiskStore(cache_folder(options) / kind)


def cache_folder(options: CacheOptions) -> Path:
    """Give the cache folder: `data.cache.dir`, or the user's cache folder."""
    return paths.cache_folder(options.dir)


def content_key(*parts: object) -> str:
    """Hash what an entry is computed from to its key (hex)."""
    text = "\x1f".join([SCHEMA_VERSION, *(f"{type(part).__name__}:{part}" for part in parts)])
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy to the CPU; safetensors refuses tensors that share memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _facts(key: str, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Describe an entry so that another key's, another version's or a damaged one is told from it."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return {"sdtune_cache": SCHEMA_VERSION, "key": key, "digest": digest.hexdigest()}
