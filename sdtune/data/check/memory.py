"""What pictures look like, remembered by the digest of their bytes, so that each is looked at once."""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdtune.data.check.pictures import PictureFacts
from sdtune.paths import user_cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)

VERSION = 1  # of what is seen in a picture: another one forgets all
_WAIT_S = 2.0
_AT_ONCE = 200
_ERRORS = (sqlite3.Error, OSError, ValueError, TypeError)


class Memory:
    """Facts of pictures by digest; without a database it forgets, and nothing else is lost.

    Args:
        database: An open database; None: nothing is remembered.
    """

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        self._database = database
        self._new: dict[str, PictureFacts] = {}

    def recall(self, digest: str) -> PictureFacts | None:
        """Give what was kept of a picture; None: nothing, or nothing that can be read."""
        if self._database is None or digest in self._new:
            return self._new.get(digest)
        try:
            row = self._database.execute("SELECT facts FROM pictures WHERE digest = ?", (digest,)).fetchone()
            return PictureFacts.from_dict(json.loads(row[0])) if row else None
        except _ERRORS as error:
            logger.debug("facts of %s: %s", digest, error)
            return None

    def keep(self, digest: str, facts: PictureFacts) -> None:
        """Keep what was seen in a picture; it is written with the next ones, so that other programs need not wait."""
        if self._database is not None:
            self._new[digest] = facts
            if len(self._new) >= _AT_ONCE:
                self.write()

    def write(self) -> None:
        """Write what is new; what cannot be written is looked at again another time."""
        if self._database is None or not self._new:
            return
        rows = [(digest, json.dumps(facts.to_dict())) for digest, facts in self._new.items()]
        self._new.clear()
        try:
            with self._database:
                self._database.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?)", rows)
        except _ERRORS as error:
            logger.debug("facts of %d pictures are not kept: %s", len(rows), error)


@contextmanager
def open_memory(folder: Path | None = None) -> Iterator[Memory]:
    """Open the memory in a cache folder; where that cannot be written, one that forgets.

    Args:
        folder: The cache folder; None: the user's.
    """
    place = (folder.expanduser() if folder else user_cache_folder()) / "pictures"
    database = None
    try:
        place.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(place / f"facts-{VERSION}.sqlite", timeout=_WAIT_S)
        database.execute("PRAGMA synchronous = OFF")  # what is lost is looked at again
        database.execute("CREATE TABLE IF NOT EXISTS pictures (digest TEXT PRIMARY KEY, facts TEXT) WITHOUT ROWID")
    except _ERRORS as error:
        logger.debug("no memory of pictures: %s", error)
    memory = Memory(database)
    try:
        yield memory
    finally:
        memory.write()
        if database is not None:
            database.close()
