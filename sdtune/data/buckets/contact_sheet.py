"""One picture of many small ones: what of each image its bucket keeps, and what is cut away."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdtune.data.pictures.images import decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.data.buckets.report import ImageCost
    from sdtune.data.types import Placement, Size

MOST_IMAGES = 200
COLUMNS = 8
CELL_PX, LABEL_PX, GAP_PX = 168, 32, 8
_PAPER, _INK, _FINE, _BAD = (24, 24, 28), (230, 230, 230), (90, 210, 120), (255, 110, 80)
_LOST_SHARE = 0.25


def draw_sheet(costs: Sequence[ImageCost], alpha_color: str) -> Image.Image:
    """Draw images in the order of their buckets, the part that is kept outlined and the rest darkened.

    At most 200 are drawn: of each bucket those that lose most.

    Args:
        costs: Images and how they are placed.
        alpha_color: Colour under transparent pixels.

    Raises:
        DataError: An image cannot be read.
    """
    shown = choose_shown(costs)
    rows = -(-len(shown) // COLUMNS)
    width, height = min(COLUMNS, len(shown)) * (CELL_PX + GAP_PX) + GAP_PX, CELL_PX + LABEL_PX + GAP_PX
    sheet = Image.new("RGB", (width, rows * height + GAP_PX), _PAPER)
    for number, cost in enumerate(shown):
        left = GAP_PX + number % COLUMNS * (CELL_PX + GAP_PX)
        sheet.paste(_cell(cost, alpha_color), (left, GAP_PX + number // COLUMNS * height))
    return sheet


def choose_shown(costs: Sequence[ImageCost]) -> list[ImageCost]:
    """Choose the images to draw, by bucket; where there are too many, of each bucket those that lose most."""
    by_bucket: dict[Size, list[ImageCost]] = defaultdict(list)
    for cost in sorted(costs, key=lambda it: (-it.crop, it.record.name)):
        by_bucket[cost.placement.bucket].append(cost)
    ranked = [(rank, cost) for group in by_bucket.values() for rank, cost in enumerate(group)]
    ranked.sort(key=lambda pair: pair[0])
    return sorted((cost for _, cost in ranked[:MOST_IMAGES]), key=lambda it: (it.placement.bucket, it.record.name))


def _cell(cost: ImageCost, alpha_color: str) -> Image.Image:
    cell = Image.new("RGB", (CELL_PX, CELL_PX + LABEL_PX), _PAPER)
    picture = Image.fromarray(decode(cost.record.path, alpha_color))
    picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.BOX)
    color = _BAD if cost.defects else _FINE
    cell.paste(_outlined(picture, cost.placement, color), ((CELL_PX - picture.width) // 2, CELL_PX - picture.height))
    pen = ImageDraw.Draw(cell)
    text = f"{cost.placement.bucket}  x{cost.scale:.2f}  cut {cost.crop:.0%}"
    pen.text((2, CELL_PX + 2), text, fill=color, font=ImageFont.load_default(12))
    pen.text((2, CELL_PX + 16), cost.record.name[-28:], fill=_INK, font=ImageFont.load_default(11))
    return cell


def _outlined(picture: Image.Image, placement: Placement, color: tuple[int, int, int]) -> Image.Image:
    scale_x, scale_y = picture.width / placement.resized.width, picture.height / placement.resized.height
    left, top = round(placement.left * scale_x), round(placement.top * scale_y)
    right = round((placement.left + placement.bucket.width) * scale_x)
    bottom = round((placement.top + placement.bucket.height) * scale_y)
    pixels = np.asarray(picture).astype(np.float64)
    pixels[:top] *= _LOST_SHARE
    pixels[bottom:] *= _LOST_SHARE
    pixels[top:bottom, :left] *= _LOST_SHARE
    pixels[top:bottom, right:] *= _LOST_SHARE
    drawn = Image.fromarray(pixels.astype(np.uint8))
    ImageDraw.Draw(drawn).rectangle((left, top, right - 1, bottom - 1), outline=color, width=2)
    return drawn
