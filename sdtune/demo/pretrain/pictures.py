"""Pools of drawn pictures, rendered once by all cores and kept as uint8 arrays in the work folder."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdtune.demo.scenes import draw_same_toy, draw_scene, sample_scene, scribble

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

logger = logging.getLogger(__name__)
_CHUNK = 500
VIEWS = 4  # pictures of each toy


def scene_picture(seed: int, index: int) -> Image.Image:
    """Return the picture of one training scene."""
    return draw_scene(sample_scene(seed, index))


def mixed_picture(seed: int, index: int) -> Image.Image:
    """Return what the VAE learns from: scenes and free scribbles in turn."""
    return scene_picture(seed, index) if index % 2 == 0 else scribble(seed, index)


def toy_view(seed: int, index: int) -> Image.Image:
    """Return one of VIEWS pictures of one of the toys of a seed."""
    return draw_same_toy(seed * 1_000_000 + index // VIEWS, index % VIEWS)


def _render_chunk(render: Callable[[int, int], Image.Image], seed: int, start: int, count: int) -> np.ndarray:
    return np.stack([np.asarray(render(seed, index)) for index in range(start, start + count)])


def rendered(work: Path, name: str, render: Callable[[int, int], Image.Image], seed: int, count: int) -> torch.Tensor:
    """Return `count` pictures as (count, 3, 64, 64) uint8; rendered at the first call, read from disk afterwards."""
    path = work / f"{name}-{seed}-{count}.npy"
    if not path.exists():
        logger.info("rendering %d pictures (%s)", count, name)
        chunk = partial(_render_chunk, render, seed)
        starts = range(0, count, _CHUNK)
        with ProcessPoolExecutor() as workers:
            parts = list(workers.map(chunk, starts, [min(_CHUNK, count - start) for start in starts]))
        np.save(path, np.concatenate(parts))
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()


def to_unit(pixels: torch.Tensor) -> torch.Tensor:
    """Map uint8 pixels to float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1.0)
