"""Small image folders for tests: drawn, deterministic, no downloads."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def draw_picture(size: tuple[int, int] = (64, 64), seed: int = 0) -> Image.Image:
    """Draw shapes on a gradient: the same picture for the same seed, different ones for different seeds."""
    draws = random.Random(seed)
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        left, right = sorted(draws.randrange(size[0]) for _ in range(2))
        top, bottom = sorted(draws.randrange(size[1]) for _ in range(2))
        color = (draws.randrange(256), draws.randrange(256), draws.randrange(256))
        pen.ellipse((left, top, right + 1, bottom + 1), fill=color)
    return picture


def write_images(
    folder: Path,
    count: int = 4,
    *,
    sizes: Sequence[tuple[int, int]] = ((64, 64),),
    caption: str | None = "a photo of thing {index}",
    caption_suffix: str = ".txt",
    image_suffix: str = ".png",
) -> list[Path]:
    """Write a folder of pictures with caption files.

    Args:
        folder: Made if it is not there.
        count: Number of pictures, named 00, 01, ...
        sizes: Widths and heights, used in turn.
        caption: Text of the caption files, `{index}` is the picture's number; None writes none.
        caption_suffix: `.txt` or `.caption`.
        image_suffix: `.png`, `.jpg`, ...

    Returns:
        The image files in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index:02d}{image_suffix}" for index in range(count)]
    for index, path in enumerate(paths):
        draw_picture(sizes[index % len(sizes)], seed=index).save(path)
        if caption is not None:
            path.with_suffix(caption_suffix).write_text(caption.format(index=index), encoding="utf-8")
    return paths
