"""Folders of the user that sdtune keeps things in."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def user_cache_folder() -> Path:
    """Give the folder for things that can be made again: SDTUNE_CACHE_DIR, or the system's usual place."""
    return Path(os.environ.get("SDTUNE_CACHE_DIR") or platformdirs.user_cache_path("sdtune"))
