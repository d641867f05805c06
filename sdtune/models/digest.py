"""Hashes of stored weights, kept in the user's cache so that a large file is read for them once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
import torch

from sdtune.errors import PlatformError
from sdtune.files import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdtune.models.storage import StoredPart

_CHUNK_BYTES = 1 << 22
_KEPT = 500
_LEGACY_START, _LEGACY_BYTES = 0x100000, 0x10000


def part_digest(stored: StoredPart) -> str:
    """Hash names, dtypes and bytes of a part (BLAKE2b-128, hex): the same in whichever file it lies.

    The answer is remembered by path, size, time and inode of the files it lies in.
    """
    paths = {stored.file.path, *(entry.path for entry in stored.entries.values())}
    key = "|".join([stored.component, *(_identity(path) for path in sorted(paths))])
    return _remember(key, lambda: hash_part(stored))


def file_digest(path: Path) -> str:
    """Hash a whole file (SHA-256, hex): what webuis and model sites know a checkpoint by; "" for a folder.

    The answer is remembered by path, size, time and inode of the file. A file that is gone or unreadable gives "":
    what a run has learned must not be lost for a name in its metadata.
    """
    if not path.is_file():
        return ""
    with suppress(PlatformError):
        return _remember(f"sha256|{_identity(path)}", lambda: hash_file(path))
    return ""


def legacy_digest(path: Path) -> str:
    """Hash 64 KiB from 1 MiB on (first 8 hex of SHA-256), as old webuis did; "" for a folder, and see `file_digest`."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(_LEGACY_START)
        return hashlib.sha256(file.read(_LEGACY_BYTES)).hexdigest()[:8]
    return ""


def _remember(key: str, compute: Callable[[], str]) -> str:
    known = _read_known()
    if key not in known:
        known[key] = compute()
        _write_known(known)
    return known[key]


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"


def hash_part(stored: StoredPart) -> str:
    """Hash a part by reading it."""
    digest = hashlib.blake2b(digest_size=16)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for name in sorted(stored.entries):
        entry = stored.entries[name]
        # shapes stay out: a VAE's attention is 2-D in a folder and 4-D in a single file, and the same weights
        digest.update(f"{name}\x1f{entry.dtype}\x1f".encode())
        if name in stored.transposed or entry.strides is not None:
            digest.update(stored.read(name).reshape(-1).view(torch.uint8).numpy().data)
            continue
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.start)
            left = entry.end - entry.start
            while left and (count := file.readinto(buffer[: min(left, _CHUNK_BYTES)])):
                digest.update(buffer[:count])
                left -= count
    return digest.hexdigest()


def _known_file() -> Path:
    return platformdirs.user_cache_path("sdtune") / "digests.json"


def _read_known() -> dict[str, str]:
    try:
        known = json.loads(_known_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_known(known: dict[str, str]) -> None:
    """Write beside, then rename; a cache that cannot be written only costs time."""
    newest = dict(list(known.items())[-_KEPT:])
    path = _known_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(newest, file)
        Path(name).replace(path)
