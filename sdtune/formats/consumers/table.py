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
BEFORE_TRAINING: Mapping[str, Reader] = {**CONSUMERS, "diffusers": diffusers.read_names}
"""The same for files that are not trained yet: by names and shapes, and nothing is put into the base model."""
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
