"""Folders of the user that sdtune keeps things in."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def user_cache_folder() -> Path:
    """Give the folder for things that can be made again: SDTUNE_CACHE_DIR, or the system's usual place."""
    return Path(os.environ.get("SDTUNE_CACHE_DIR") or platformdirs.user_cache_path("sdtune"))


def cache_folder(chosen: Path | None) -> Path:
    """Give the cache folder: the chosen one (`data.cache.dir`), or the user's."""
    return chosen.expanduser() if chosen is not None else user_cache_folder()
