"""Files that appear whole or not at all.

A file is written beside its place, as a draft; it is synced, and renamed. Its mode follows the umask; nothing is
replaced unasked. A draft is locked as long as its writer lives, so that what a killed one left is told from work.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Literal

from sdtune.errors import ConfigError, PlatformError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_CHUNK_BYTES = 1 << 20
_UNITS = {"GiB": 2**30, "MiB": 2**20, "TB": 10**12, "GB": 10**9, "MB": 10**6, "kB": 10**3, "G": 10**9, "M": 10**6}
_DRAFT = ".sdtune-*.tmp"
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV, errno.EACCES}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h


@contextmanager
def writing(path: Path, *, overwrite: bool = False, size: int | None = None, sync: bool = True) -> Iterator[Path]:
    """Give a file beside `path` to write to, which takes its place when the block ends without an error.

    Whatever happens, `path` holds its old bytes or all of the new ones. The parent folder is made when it is missing.

    Args:
        path: The file.
        overwrite: Replace a file of that name.
        size: Bytes it will have, which a full disk's message tells; None: not known.
        sync: Wait for the disk; without, a power cut may leave a file that is not whole.

    Raises:
        ConfigError: `path` is there, and may not be replaced.
        PlatformError: The disk is full, the place is read-only, or the name cannot be a file's.
    """
    with _platform_errors(path, size=size):
        _refuse_existing(path, overwrite=overwrite)
        _make_folder(path.parent)
        with _draft(path, _make_file) as draft:
            yield draft
            if sync:
                _sync(draft)
            _put(draft, path, overwrite=overwrite)
        if sync:
            _sync_folder(path.parent)


@contextmanager
def writing_folder(path: Path, *, overwrite: bool = False, size: int | None = None) -> Iterator[Path]:
    """Give a folder beside `path` to fill, which takes its place when the block ends without an error.

    Args:
        path: The folder.
        overwrite: Replace a folder of that name, with all that is in it.
        size: Bytes it will have, which a full disk's message tells; None: not known.

    Raises:
        ConfigError: `path` is there, and may not be replaced.
        PlatformError: The disk is full, the place is read-only, or the name cannot be a folder's.
    """
    with _platform_errors(path, size=size):
        _refuse_existing(path, overwrite=overwrite)
        _make_folder(path.parent)
        with _draft(path, _make_subfolder) as draft:
            yield draft
            _sync_tree(draft)
            if overwrite and path.exists():
                _swap(draft, path)
            else:
                draft.rename(path)
        _sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder; nothing half removed ever stands under its name.

    Raises:
        PlatformError: It cannot be removed.
    """
    with _platform_errors(path, verb="remove"):
        draft = _draft_beside(path)
        path.rename(draft)
        _remove(draft)


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


def sweep_drafts(folder: Path, *, is_alone: bool, depth: Literal["here", "below"] = "below") -> None:
    """Remove what killed processes left in a folder; drafts of processes that live stay.

    Args:
        folder: Where to look.
        depth: Look there alone, or in all folders below too.
        is_alone: No other process writes there, so that all drafts are leftovers, also where files cannot be locked.
    """
    for draft in folder.glob(_DRAFT) if depth == "here" else folder.rglob(_DRAFT):
        if is_alone:
            _remove(draft)
        else:
            _sweep_abandoned(draft)


def try_lock(descriptor: int) -> bool:
    """Lock an open file for this process; the system lets go when the process ends, however it ends.

    Returns:
        False: another process holds it.

    Raises:
        OSError: The file system has no locks.
    """
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):
        return False
    return True


def hold_shared(descriptor: int) -> None:
    """Lock an open file together with others, so that nobody has it alone; waits while somebody does.

    Nothing is locked on Windows, which refuses to remove a file that is open.

    Raises:
        OSError: The file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def free_bytes(path: Path) -> int:
    """Give the free space where a path lies or will lie.

    Raises:
        OSError: The system does not tell.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    if not usage.total:  # e.g. /proc
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    return usage.free


def show_bytes(count: int) -> str:
    """Spell a number of bytes: `720 bytes`, `1.4 MB`; a kB has 1000 bytes."""
    value, units = float(count), ["TB", "GB", "MB", "kB", "bytes"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop()
    return f"{value:.3g} {units[-1]}"


def parse_bytes(text: str) -> int | None:
    """Read `8GB`, `7.5 GB`, `8GiB` or `900MB` as bytes, GB are 10^9; None: it is no size."""
    for unit, factor in _UNITS.items():
        number = text.strip().lower().removesuffix(unit.lower()).strip()
        if number != text.strip().lower() and number.replace(".", "", 1).isdecimal():
            return int(float(number) * factor)
    return None


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
def _platform_errors(path: Path, verb: str = "write", size: int | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = _space_hint(path, size) if error.errno in _DISK_FULL else ""
        raise PlatformError(f"cannot {verb} {path}: {error.strerror or error}", hint=hint) from error


def _space_hint(path: Path, size: int | None) -> str:
    need = "" if size is None else f"{show_bytes(size)} are needed, "
    try:
        return f"make room: {need}{show_bytes(free_bytes(path))} are free there"
    except OSError:
        return "make room"


def _refuse_existing(path: Path, *, overwrite: bool) -> None:
    if overwrite or not os.path.lexists(path):
        return
    raise ConfigError(f"{path} exists", hint="choose another name, or --overwrite to replace it")


def _draft_beside(path: Path) -> Path:
    # Short, so that a target with the longest name a file system takes (255 bytes) has a draft too.
    return path.with_name(_DRAFT.replace("*", secrets.token_hex(6)))


@contextmanager
def _draft(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    draft, descriptor = _locked_draft(path, make)
    try:
        yield draft
    finally:
        if descriptor is not None:
            os.close(descriptor)
        _remove(draft)


def _locked_draft(path: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Make a draft and lock it: again, when another process sweeps it away between the two."""
    while True:
        draft = _draft_beside(path)
        make(draft)
        if fcntl is None:  # Windows renames no file that is open
            return draft, None
        with suppress(FileNotFoundError):
            descriptor = os.open(draft, os.O_RDONLY)
            if _is_locked(descriptor) and draft.exists():
                return draft, descriptor
            os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        return try_lock(descriptor)
    except OSError:  # no locks here; nobody sweeps here either
        return True


def _make_file(draft: Path) -> None:
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _make_subfolder(draft: Path) -> None:
    draft.mkdir()


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents, each synced into its own, so that what is in it outlasts a power cut."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sweep_abandoned(draft: Path) -> None:
    """Remove a draft whose writer has died; leave it where that cannot be known."""
    if fcntl is None:
        return
    with suppress(OSError):
        descriptor = os.open(draft, os.O_RDONLY)
        try:
            if try_lock(descriptor):
                _remove(draft)
        finally:
            os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # behind what is written there, which others can read that way
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # Windows only


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _swap(draft: Path, path: Path) -> None:
    """Put a draft in the place of what is there; the draft's name then holds the old, or nothing."""
    if _exchange(draft, path):
        return
    old = _draft_beside(path)
    path.rename(old)
    draft.rename(path)
    _remove(old)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one go, where the system can: renameat2(2), Linux 3.15 with glibc 2.28."""
    try:
        exchange = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return bool(exchange(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0)


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
