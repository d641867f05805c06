"""Rendering of figures on backgrounds: supersampled, antialiased, 64 x 64 pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sdtune.demo.figures import COLOURS, Part

if TYPE_CHECKING:
    from sdtune.demo.figures import Polygon, Rgb

SIZE_PX = 64
SUPERSAMPLING = 4
TEXTURES = ("plain", "striped", "dotted", "checkered")
STYLES = ("flat", "outlined", "shadowed", "soft")
_TILE_PX = 8  # textures repeat with the period of one latent cell, so a VAE of factor 8 can keep them


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """What lies behind a figure."""

    rgb: Rgb
    texture: str = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a figure stands: its centre and half its height, in pixels of the 64 x 64 picture."""

    cx_px: float
    cy_px: float
    radius_px: float


def shade(rgb: Rgb) -> Rgb:
    """Return the second tone of a texture: darker, or lighter where the colour is dark."""
    is_dark = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2] < 60
    goal, weight = (255, 0.3) if is_dark else (0, 0.28)
    red, green, blue = (round(v + (goal - v) * weight) for v in rgb)
    return red, green, blue


@lru_cache(maxsize=8)
def _texture_mask(texture: str) -> Image.Image:
    side = SIZE_PX * SUPERSAMPLING
    tile = _TILE_PX * SUPERSAMPLING
    y, x = np.mgrid[0:side, 0:side] % tile
    half = tile / 2
    masks = {
        "plain": np.zeros((side, side), bool),
        "striped": x < half,
        "dotted": (x - half) ** 2 + (y - half) ** 2 < (0.3 * tile) ** 2,
        "checkered": (x < half) ^ (y < half),
    }
    return Image.fromarray((masks[texture] * 255).astype(np.uint8))


def _textured(rgb: Rgb, texture: str) -> Image.Image:
    side = SIZE_PX * SUPERSAMPLING
    layer = Image.new("RGB", (side, side), rgb)
    if texture != "plain":
        layer.paste(shade(rgb), mask=_texture_mask(texture))
    return layer


def _scaled(polygon: Polygon, place: Placement) -> list[tuple[float, float]]:
    k, r = SUPERSAMPLING, place.radius_px
    return [((place.cx_px + x * r) * k, (place.cy_px + y * r) * k) for x, y in polygon]


def _mask(part: Part, place: Placement) -> Image.Image:
    side = SIZE_PX * SUPERSAMPLING
    mask = Image.new("L", (side, side), 0)
    pen = ImageDraw.Draw(mask)
    pen.polygon(_scaled(part.polygon, place), fill=255)
    if part.hole:
        pen.polygon(_scaled(part.hole, place), fill=0)
    return mask


def _outline(picture: Image.Image, part: Part, place: Placement) -> None:
    ink = COLOURS["black"] if sum(part.rgb) > 120 else COLOURS["white"]
    pen = ImageDraw.Draw(picture)
    for polygon in (part.polygon, part.hole):
        if polygon:
            points = _scaled(polygon, place)
            pen.line([*points, points[0], points[1]], fill=ink, width=round(2.2 * SUPERSAMPLING), joint="curve")


def _cast_shadow(picture: Image.Image, figure: list[Part], place: Placement) -> None:
    moved = Placement(cx_px=place.cx_px + 3.5, cy_px=place.cy_px + 3.5, radius_px=place.radius_px)
    for part in figure:
        dark = picture.point(lambda v: v * 0.5)
        picture.paste(dark, mask=_mask(part, moved))


def draw(
    figure: list[Part], place: Placement, canvas: Canvas, *, texture: str = "plain", style: str = "flat"
) -> Image.Image:
    """Return the 64 x 64 RGB picture of a figure; texture and outline apply to every part of it."""
    picture = _textured(canvas.rgb, canvas.texture)
    if style == "shadowed":
        _cast_shadow(picture, figure, place)
    for part in figure:
        mask = _mask(part, place)
        if style == "soft":
            mask = mask.filter(ImageFilter.BoxBlur(1.4 * SUPERSAMPLING))
        picture.paste(_textured(part.rgb, texture), mask=mask)
        if style == "outlined":
            _outline(picture, part, place)
    return picture.reduce(SUPERSAMPLING)
