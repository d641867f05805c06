"""Shards: files of many entries each, that are never changed, each with an index of its own.

A shard is a safetensors file of two tensors: `index`, (N, 6) int64, a row for each entry, and `entries`, the entries'
bytes one after the other. A row holds key, place (first byte and size, in `entries`) and digest; keys and digests are
16 bytes, two numbers each. The metadata holds the layout's version and the digest of the index.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdtune.files import writing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

LAYOUT = "2"
SUFFIX = ".safetensors"
KEY_BYTES = 16
COLUMNS = 6
START, SIZE = 2, 3
_HEADER_LIMIT_BYTES = 4_096  # of 300: the header names two tensors, however many entries there are
_LENGTH_BYTES = 8
_WORD = np.dtype("<i8")


class BadShardError(Exception):
    """A file that is no whole shard of this layout.

    Attributes:
        is_foreign: It is whole as far as can be told, and of another layout.
    """

    def __init__(self, why: str, *, is_foreign: bool = False) -> None:
        super().__init__(why)
        self.is_foreign = is_foreign


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """A shard whose index has been read.

    Attributes:
        path: The file.
        index: (N, 6) int64, a row for each entry; places count from the start of the file.
    """

    path: Path
    index: NDArray[np.int64]

    def entries(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Read key and bytes of each entry; None: it is damaged."""
        for row in self.index:
            yield row[:START].tobytes(), read_entry(self.path, row)


def write_shard(folder: Path, entries: Mapping[bytes, bytes]) -> Path:
    """Write entries, by their 16-byte keys, as one shard that is there whole or not at all.

    Raises:
        PlatformError: The disk is full or the folder cannot be written.
    """
    index = _make_index(entries)
    size = sum(map(len, entries.values()))
    name = _digest(index.tobytes())
    head = _header(len(entries), size, name)
    with (
        writing(folder / f"{name}{SUFFIX}", overwrite=True, size=len(head) + index.nbytes + size) as draft,
        draft.open("wb") as file,
    ):
        file.write(head)
        file.write(index.tobytes())
        file.writelines(entries.values())
    return folder / f"{name}{SUFFIX}"


def read_shard(path: Path) -> Shard:
    """Read a shard's index; the entries are left where they are.

    Raises:
        BadShardError: The file is gone, damaged, or of another layout.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(min(length, _HEADER_LIMIT_BYTES)))
            name, count = _read_header(header)
            index = np.frombuffer(file.read(count * COLUMNS * _WORD.itemsize), _WORD).reshape(count, COLUMNS).copy()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadShardError(str(error)) from error
    if _digest(index.tobytes()) != name:
        raise BadShardError("its index is damaged")
    index[:, START] += _LENGTH_BYTES + length + index.nbytes
    return Shard(path=path, index=index)


def read_entry(path: Path, row: NDArray[np.int64]) -> bytes | None:
    """Read one entry by its row of a shard's index; None where it is gone or damaged.

    The file is opened for each entry, which costs some 20 µs: so none is kept open, threads share nothing, and what
    is deleted is noticed.
    """
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(int(row[START]))
            data = file.read(int(row[SIZE]))
    except (OSError, ValueError):
        return None
    key, digest = row[:START].tobytes(), row[SIZE + 1 : COLUMNS].tobytes()
    return data if len(data) == row[SIZE] and _entry_digest(key, data) == digest else None


def _make_index(entries: Mapping[bytes, bytes]) -> NDArray[np.int64]:
    index = np.zeros((len(entries), COLUMNS), _WORD)
    sizes = np.fromiter(map(len, entries.values()), _WORD, len(entries))
    index[:, :START] = np.frombuffer(b"".join(entries), _WORD).reshape(-1, 2)
    index[:, START] = np.cumsum(sizes) - sizes
    index[:, SIZE] = sizes
    digests = b"".join(_entry_digest(key, data) for key, data in entries.items())
    index[:, SIZE + 1 :] = np.frombuffer(digests, _WORD).reshape(-1, 2)
    return index


def _header(count: int, size: int, name: str) -> bytes:
    index_bytes = count * COLUMNS * _WORD.itemsize
    header = {
        "__metadata__": {"sdtune_cache": LAYOUT, "index": name},
        "index": {"dtype": "I64", "shape": [count, COLUMNS], "data_offsets": [0, index_bytes]},
        "entries": {"dtype": "U8", "shape": [size], "data_offsets": [index_bytes, index_bytes + size]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _read_header(header: Any) -> tuple[str, int]:
    """Give the digest of the index, and the number of entries."""
    facts = header.get("__metadata__", {})
    if facts.get("sdtune_cache") != LAYOUT:
        raise BadShardError("it is of another layout", is_foreign=True)
    return str(facts["index"]), int(header["index"]["shape"][0])


def _entry_digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY_BYTES, key=key).digest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=KEY_BYTES).hexdigest()
