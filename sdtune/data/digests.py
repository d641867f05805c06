"""Digests by which contents are known: BLAKE2b-128."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sdtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

DIGEST_BYTES = 16


def file_digest(path: Path) -> str:
    """Hash a file's bytes: BLAKE2b-128, hex.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def bytes_digest(data: bytes) -> str:
    """Hash bytes as `file_digest` hashes a file's."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()
