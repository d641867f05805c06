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
        )
    ]


@hookimpl
def sdtune_detect_family(shapes: Mapping[str, tuple[int, ...]], path: Path) -> str | None:
    """Tell Stable Diffusion 1, 2 and XL apart."""
    return detect_family(shapes, path)
