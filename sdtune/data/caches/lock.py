"""Who uses a cache: many runs at once, or one that clears it up."""

from __future__ import annotations

import os
import weakref
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sdtune.errors import PlatformError
from sdtune.files import hold_shared, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = ".lock"


class CacheUse:
    """A claim that the files of a cache stay, until it is closed, or this object or the process ends.

    Where the folder cannot be written or has no locks, nothing is claimed: then nobody clears it up either.

    Args:
        folder: The cache's, which is there.
    """

    def __init__(self, folder: Path) -> None:
        self._release: weakref.finalize[[int], CacheUse] | None = None
        with suppress(OSError):
            descriptor = _open(folder)
            self._release = weakref.finalize(self, os.close, descriptor)
            hold_shared(descriptor)

    def close(self) -> None:
        """Give the claim up."""
        if self._release is not None:
            self._release()


@contextmanager
def held_alone(folder: Path) -> Iterator[None]:
    """Keep others from using a cache.

    Raises:
        PlatformError: A run uses it, or that cannot be known.
    """
    try:
        descriptor = _open(folder)
    except OSError as error:
        raise PlatformError(f"the cache cannot be written: {error.strerror}", where=str(folder)) from error
    try:
        if not _is_free(descriptor, folder):
            raise PlatformError("a run uses the cache", where=str(folder), hint="wait until it has ended")
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o666)


def _is_free(descriptor: int, folder: Path) -> bool:
    try:
        return try_lock(descriptor)
    except OSError as error:
        raise PlatformError(
            "whether a run uses the cache cannot be known: its file system has no locks",
            where=str(folder),
            hint="remove files by hand while nothing trains",
        ) from error
