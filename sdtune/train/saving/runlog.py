"""The log of a run: what sdtune logs, in a file of the run's folder."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sdtune.errors import PlatformError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Write what sdtune logs to a file too; once it cannot be written, one warning is given, and no more is written.

    Raises:
        PlatformError: The file cannot be opened.
    """
    try:
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise PlatformError(
            f"cannot write the log: {error.strerror}", where=str(path), hint="choose another --output"
        ) from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    root, level = logging.getLogger("sdtune"), logging.getLogger("sdtune").level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        with suppress(OSError):  # what could not be written is tried once more
            handler.close()


class _LogFile(logging.FileHandler):
    _is_broken = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless an earlier one could not be written."""
        if not self._is_broken:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name that logging calls
        """Tell it once, instead of a traceback for each record."""
        self._is_broken = True
        logger.warning("the log %s is not written any more: %s", self.baseFilename, sys.exception())
