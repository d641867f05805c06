"""Read a `.pt` file as A1111's webui does."""

from __future__ import annotations

from sdtune.formats.consumers.pickles import load_like_webui

__all__ = ["load_like_webui"]
