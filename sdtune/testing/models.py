"""Opened models for the tests of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.testing.tiny import tiny_model, tiny_sd1

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdtune.models.base import DiffusionModel, Part

# Each level as wide against the one before as in SD1: so there is a shortcut wherever SD1 has one.
WIDTHS = (32, 64, 128, 128)


def open_tiny_sd1(
    path: Path, *, parts: Sequence[Part] = ("unet", "text_encoder"), text_layers: int = 12
) -> DiffusionModel:
    """Open a tiny SD1 that has every layer of the true one, float32 on the CPU, with parts loaded.

    Args:
        path: As for `tiny_sd1`; written when it is not there.
        parts: What to load.
        text_layers: Layers of the text encoder, when it is written.
    """
    if not path.exists():
        tiny_sd1(path, text_layers=text_layers, block_out_channels=WIDTHS)
    return open_tiny(path, "sd1", parts=parts)


def open_tiny(path: Path, family: str, *, parts: Sequence[Part] = ("unet", "text_encoder")) -> DiffusionModel:
    """Open a tiny model, float32 on the CPU, with parts loaded.

    Args:
        path: As for `tiny_model`; written when it is not there.
        family: `sd1`, `sd2` or `sdxl`.
        parts: What to load.
    """
    import torch

    from sdtune.models import sd
    from sdtune.models.base import ModelSource

    if not path.exists():
        tiny_model(path, family)
    source = ModelSource(path=path, name=path.stem, dtype=torch.float32, device=torch.device("cpu"))
    classes = {"sd1": sd.StableDiffusion1, "sd2": sd.StableDiffusion2, "sdxl": sd.StableDiffusionXL}
    model = classes[family](source)
    for part in parts:
        model.load(part)
    return model
