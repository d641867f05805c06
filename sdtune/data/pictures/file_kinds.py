"""Which kinds of image files can be read, and how those that cannot are recognised."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF")
"""Pillow's names of what can be read without extras."""
HEIC_HINT = "install its reader: pip install sdtune[heic]; or convert it to JPEG"

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jfif"),
    "PNG": (".png", ".apng"),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif", ".hif"),
}
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis")
_STARTS = {
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
    b"8BPS": "a Photoshop file",
    b"FUJIFILMCCD-RAW": "a camera's raw file",
    b"II*\x00\x10\x00\x00\x00CR": "a camera's raw file",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}


@lru_cache(maxsize=1)
def open_formats() -> tuple[str, ...]:
    """Give the formats that Pillow may try; HEIF is among them where the extra `heic` is installed."""
    if find_spec("pillow_heif") is None:
        return FORMATS
    import_module("pillow_heif").register_heif_opener()
    return (*FORMATS, "HEIF")


def suffixes_of(format: str) -> tuple[str, ...]:
    """Give the suffixes of file names that fit a format, the usual one first."""
    return _SUFFIXES.get(format, (f".{format.lower()}",))


def foreign_kind(start: bytes) -> str:
    """Name the kind of a file that cannot be read by its first bytes; empty when they are of none that is known."""
    if start[4:8] == b"ftyp" and any(brand in start[8:] for brand in _HEIC_BRANDS):
        return "HEIC"
    return next((kind for magic, kind in _STARTS.items() if start.startswith(magic)), "")
