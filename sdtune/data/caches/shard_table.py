"""Which entry lies where: the indices of many shards as one sorted table, 56 bytes for an entry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.caches.shards import COLUMNS, START

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdtune.data.caches.shards import Shard

_SHARD = COLUMNS  # the column behind those of a shard's index: which shard it is


class ShardTable:
    """Rows of several shards by key; never changed, so that threads may read it.

    Args:
        paths: The shards.
        rows: (N, 7) int64, sorted by key, each column in one piece; the last one is a place in `paths`.
    """

    def __init__(self, paths: tuple[Path, ...] = (), rows: NDArray[np.int64] | None = None) -> None:
        self.paths = paths
        self.rows = np.zeros((0, _SHARD + 1), np.int64) if rows is None else rows

    def joined(self, shards: Sequence[Shard]) -> ShardTable:
        """Give a table that has more shards."""
        first = len(self.paths)
        new = [np.insert(shard.index, _SHARD, first + number, axis=1) for number, shard in enumerate(shards)]
        rows = np.concatenate([self.rows, *new])
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        return ShardTable((*self.paths, *(shard.path for shard in shards)), np.asfortranarray(rows))

    def find(self, key: bytes) -> NDArray[np.int64]:
        """Give the rows of a 16-byte key: one, none, or several where the same was computed twice."""
        high, low = np.frombuffer(key, np.int64)
        start, end = (int(np.searchsorted(self.rows[:, 0], high, side)) for side in ("left", "right"))
        found = self.rows[start:end]
        same: NDArray[np.int64] = found[found[:, 1] == low]
        return same

    def place(self, row: NDArray[np.int64]) -> Path:
        """Give the shard of a row."""
        return self.paths[int(row[_SHARD])]

    def order(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Put keys (N, 2) into the order in which their entries lie on the disk, for reading all of them."""
        if not len(self.rows):
            return np.arange(len(keys))
        places = np.searchsorted(self.rows[:, 0], keys[:, 0]).clip(max=len(self.rows) - 1)
        return np.lexsort((self.rows[places, START], self.rows[places, _SHARD]))
