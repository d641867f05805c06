"""The programs there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.formats.consumers import a1111, comfyui, definition, diffusers, forge, kohya

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.formats.consumers.reading import Reader

CONSUMERS: Mapping[str, Reader] = {
    "a1111": a1111.read,
    "forge": forge.read,
    "comfyui": comfyui.read,
    "kohya": kohya.read,
    "diffusers": diffusers.read,
}
AS_MEANT = "file"
TITLES: Mapping[str, str] = {
    "a1111": "A1111",
    "forge": "Forge",
    "comfyui": "ComfyUI",
    "kohya": "kohya (sd-scripts)",
    "diffusers": "diffusers",
    AS_MEANT: "the file itself",
}
DEFINITION: Reader = definition.read
