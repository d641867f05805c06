"""Small colour profiles for tests, written by the ICC's specification (ICC.1:2001-04)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
"""XYZ of Adobe RGB (1998)'s red, green and blue, seen under D50; its gamma is 563/256."""
_D50 = (0.9642, 1.0, 0.8249)


def rgb_profile(name: str, primaries: Sequence[Sequence[float]] = ADOBE_RGB, gamma: float = 563 / 256) -> bytes:
    """Make a profile of three primaries and one gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    colors = {f"{letter}XYZ": _xyz(primary) for letter, primary in zip("rgb", primaries, strict=True)}
    curves = {f"{letter}TRC": curve for letter in "rgb"}
    return _profile(b"mntr", b"RGB ", b"XYZ ", {**_described(name), **colors, **curves})


def cmyk_profile(name: str, inks: Sequence[Sequence[int]]) -> bytes:
    """Make a profile of a printer.

    Args:
        name: Its name.
        inks: L, a and b, each 0 to 255, of the 16 mixtures of full inks: none, K, Y, YK, M, ... CMYK.
    """
    line = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (number % 4 == 0) for number in range(9)))
    table = bytes(value for ink in inks for value in ink)
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + line * 4 + table + line * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {**_described(name), "A2B0": lut})


def _described(name: str) -> dict[str, bytes]:
    text = name.encode("ascii") + b"\0"
    description = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    return {"desc": description, "cprt": b"text" + bytes(4) + b"none\0", "wtpt": _xyz(_D50)}


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: Mapping[str, bytes]) -> bytes:
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag.encode() + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    light = struct.pack(">3i", *(round(value * 65536) for value in _D50))
    head = struct.pack(
        ">I4sI4s4s4s12s4s", start + len(body), b"", 0x02400000, kind, space, connection, bytes(12), b"acsp"
    )
    return (head + bytes(28) + light).ljust(128, b"\0") + table + body
