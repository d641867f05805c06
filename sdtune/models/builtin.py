"""The core's own plugin: the model families it brings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.hookspecs import hookimpl
from sdtune.models.detect import detect_family
from sdtune.specs import FamilySpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


@hookimpl
def sdtune_families() -> Iterable[FamilySpec]:
    """List the families of the core."""
    return [
        FamilySpec(
            name="sd1",
            summary="Stable Diffusion 1.x: 512 px, one CLIP text encoder",
            factory="sdtune.models.sd:StableDiffusion1",
        ),
        FamilySpec(
            name="sd2",
            summary="Stable Diffusion 2.x: 512 px, or 768 px where it predicts v; one OpenCLIP text encoder",
            factory="sdtune.models.sd:StableDiffusion2",
        ),
        FamilySpec(
            name="sdxl",
            summary="Stable Diffusion XL: 1024 px, two text encoders, and the size and crop of each picture",
            factory="sdtune.models.sd:StableDiffusionXL",
        ),
    ]


@hookimpl
def sdtune_detect_family(shapes: Mapping[str, tuple[int, ...]], path: Path) -> str | None:
    """Tell Stable Diffusion 1, 2 and XL apart."""
    return detect_family(shapes, path)
