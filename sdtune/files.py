"""Files that appear whole or not at all.

A file is written beside its place, synced, and renamed; its mode follows the umask; nothing is replaced unasked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK_BYTES = 1 << 20
_DRAFT = ".sdtune-*.tmp"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}


@contextmanager
def writing(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a file beside `path` to write to, which takes its place when the block ends without an error.

    Whatever happens, `path` holds its old bytes or all of the new ones. The parent folder is made when it is missing.

    Raises:
        ConfigError: `path` is there, and may not be replaced.
        PlatformError: The disk is full, the place is read-only, or the name cannot be a file's.
    """
    with _platform_errors(path):
        _refuse_existing(path, overwrite=overwrite)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_beside(path)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield draft
            _sync(draft)
            _put(draft, path, overwrite=overwrite)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give a folder beside `path` to fill, which takes its place when the block ends without an error.

    Raises:
        ConfigError: `path` is there.
        PlatformError: The disk is full, the place is read-only, or the name cannot be a folder's.
    """
    with _platform_errors(path):
        _refuse_existing(path, overwrite=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_beside(path)
        draft.mkdir()
        try:
            yield draft
            _sync_tree(draft)
            draft.rename(path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        _sync_folder(path.parent)


def write_bytes(path: Path, data: bytes, *, overwrite: bool = False) -> Path:
    """Write a whole file, as `writing` does."""
    with writing(path, overwrite=overwrite) as draft:
        draft.write_bytes(data)
    return path


def write_text(path: Path, text: str, *, overwrite: bool = False) -> Path:
    """Write a whole UTF-8 file, line ends as they are, as `writing` does."""
    return write_bytes(path, text.encode(), overwrite=overwrite)


def copy_file(source: Path, target: Path, *, overwrite: bool = False) -> Path:
    """Copy a file's bytes, as `writing` does."""
    with writing(target, overwrite=overwrite) as draft:
        shutil.copyfile(source, draft)
    return target


def sweep_drafts(folder: Path) -> None:
    """Remove what killed processes left in a folder and below; only when no other process writes there."""
    for draft in folder.rglob(_DRAFT):
        if draft.is_dir():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)


def hash_file(path: Path, *, skip_bytes: int = 0) -> str:
    """Hash a file (SHA-256, hex) from the byte `skip_bytes` on.

    Raises:
        PlatformError: The file cannot be read.
    """
    digest = hashlib.sha256()
    with _platform_errors(path, verb="read"), path.open("rb") as file:
        file.seek(skip_bytes)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _platform_errors(path: Path, verb: str = "write") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PlatformError(f"cannot {verb} {path}: {error.strerror or error}") from error


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if overwrite or not os.path.lexists(path):
        return
    raise ConfigError(f"{path} exists", hint="choose another name, or --overwrite to replace it")


def _draft_beside(path: Path) -> Path:
    # Short, so that a target with the longest name a file system takes (255 bytes) has a draft too.
    return path.with_name(_DRAFT.replace("*", secrets.token_hex(6)))


def _put(draft: Path, path: Path, *, overwrite: bool) -> None:
    if overwrite:
        draft.replace(path)
        return
    try:
        os.link(draft, path)  # unlike a rename, refuses a file that came into being meanwhile
    except FileExistsError:
        _refuse_existing(path, overwrite=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _refuse_existing(path, overwrite=False)
        draft.rename(path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _sync_folder(path)
        else:
            _sync(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and a rename needs no sync of its own
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems refuse to sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
