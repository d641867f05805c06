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
_ERRORS = (sqlite3.Error, OSError, ValueError, TypeError)


class Memory:
    """Facts of pictures by digest; without a database it forgets, and nothing else is lost.

    Args:
        database: An open database; None: nothing is remembered.
    """

    def __init__(self, database: sqlite3.Connection | None = None) -> None:
        self._database = database

    def recall(self, digest: str) -> PictureFacts | None:
        """Give what was kept of a picture; None: nothing, or nothing that can be read."""
        if self._database is None:
            return None
        try:
            row = self._database.execute("SELECT facts FROM pictures WHERE digest = ?", (digest,)).fetchone()
            return PictureFacts.from_dict(json.loads(row[0])) if row else None
        except _ERRORS as error:
            logger.debug("facts of %s: %s", digest, error)
            return None

    def keep(self, digest: str, facts: PictureFacts) -> None:
        """Keep what was seen in a picture."""
        if self._database is None:
            return
        try:
            row = (digest, json.dumps(facts.to_dict()))
            self._database.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?)", row)
        except _ERRORS as error:
            logger.debug("facts of %s: %s", digest, error)


@contextmanager
def open_memory(folder: Path | None = None) -> Iterator[Memory]:
    """Open the memory in a cache folder; where that cannot be written, one that forgets.

    Args:
        folder: The cache folder; None: the user's.
    """
    place = (folder.expanduser() if folder else user_cache_folder()) / "pictures"
    try:
        place.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(place / f"facts-{VERSION}.sqlite", timeout=_WAIT_S, isolation_level=None)
        database.execute("CREATE TABLE IF NOT EXISTS pictures (digest TEXT PRIMARY KEY, facts TEXT) WITHOUT ROWID")
        database.execute("PRAGMA synchronous = OFF")  # what is lost is looked at again
        database.execute("BEGIN")
    except _ERRORS as error:
        logger.debug("no memory of pictures: %s", error)
        yield Memory()
        return
    try:
        yield Memory(database)
    finally:
        _close(database)


def _close(database: sqlite3.Connection) -> None:
    try:
        database.commit()
    except sqlite3.Error as error:
        logger.debug("facts of pictures are not kept: %s", error)
    database.close()
