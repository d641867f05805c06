"""Figures as lists of coloured polygons in the unit square [-1, 1] x [-1, 1], y pointing down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Point = tuple[float, float]
Polygon = tuple[Point, ...]
Rgb = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "diamond")
COLOURS: dict[str, Rgb] = {
    "red": (220, 38, 38),
    "orange": (245, 140, 25),
    "yellow": (245, 222, 50),
    "green": (45, 160, 65),
    "cyan": (70, 205, 225),
    "blue": (40, 70, 205),
    "purple": (128, 50, 175),
    "pink": (248, 135, 190),
    "white": (246, 246, 246),
    "black": (22, 22, 22),
}
GREY: Rgb = (128, 128, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One filled polygon of a figure; `hole` is cut out of it."""

    polygon: Polygon
    rgb: Rgb
    hole: Polygon = ()


def ellipse(cx: float, cy: float, rx: float, ry: float, corners: int = 40) -> Polygon:
    """Return an ellipse around (cx, cy) as a polygon; few corners make a regular polygon standing on a side."""
    turns = [2 * math.pi * (i + 0.5) / corners + math.pi / 2 for i in range(corners)]
    return tuple((cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turns)


def box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Return an axis-parallel rectangle."""
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _star() -> Polygon:
    radii = [1.05 if i % 2 == 0 else 0.43 for i in range(10)]
    turns = [math.pi * i / 5 - math.pi / 2 for i in range(10)]
    return tuple((r * math.cos(t), 0.06 + r * math.sin(t)) for r, t in zip(radii, turns, strict=True))


def _heart() -> Polygon:
    turns = [2 * math.pi * i / 48 for i in range(48)]
    return tuple(
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 - 0.1,
        )
        for t in turns
    )


def _cross(arm: float = 0.33) -> Polygon:
    return (
        (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
        (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
    )  # fmt: skip


_OUTLINES: dict[str, Polygon] = {
    "circle": ellipse(0, 0, 0.97, 0.97),
    "square": box(-0.86, -0.86, 0.86, 0.86),
    "triangle": ((0, -0.98), (1, 0.82), (-1, 0.82)),
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
    "ring": ellipse(0, 0, 0.98, 0.98),
    "diamond": ((0, -1.05), (0.72, 0), (0, 1.05), (-0.72, 0)),
}


def shape_figure(shape: str, rgb: Rgb) -> list[Part]:
    """Return one of SHAPES as a figure of a single part."""
    hole = ellipse(0, 0, 0.52, 0.52) if shape == "ring" else ()
    return [Part(polygon=_OUTLINES[shape], rgb=rgb, hole=hole)]


def toy_figure(rng: np.random.Generator, body: Rgb) -> list[Part]:
    """Return a random toy: a body of the given colour with ears, feet, a patch and a face in other colours."""
    palette = [rgb for rgb in COLOURS.values() if rgb != body]
    picked = rng.choice(len(palette), 3, replace=False)
    ear_rgb, patch_rgb, foot_rgb = (palette[int(i)] for i in picked)
    parts = _ears(rng, ear_rgb) + _feet(rng, foot_rgb)
    parts.append(Part(polygon=_body(rng), rgb=body))
    parts += _patch(rng, patch_rgb)
    return parts + _face(rng, body)


def _body(rng: np.random.Generator) -> Polygon:
    bodies = (
        ellipse(0, 0.1, 0.72, 0.72),
        box(-0.62, -0.5, 0.62, 0.72),
        ellipse(0, 0.1, 0.74, 0.7, corners=6),
        ellipse(0, 0.12, 0.6, 0.72),
        ((0, -0.8), (0.8, 0.78), (-0.8, 0.78)),
    )
    return bodies[int(rng.integers(len(bodies)))]


def _mirrored(polygon: Polygon, rgb: Rgb) -> list[Part]:
    flipped = tuple((-x, y) for x, y in polygon)
    return [Part(polygon=polygon, rgb=rgb), Part(polygon=flipped, rgb=rgb)]


def _ears(rng: np.random.Generator, rgb: Rgb) -> list[Part]:
    kinds: tuple[Polygon, ...] = (
        ellipse(0.5, -0.62, 0.32, 0.32),
        ((0.15, -0.4), (0.6, -1.0), (0.72, -0.2)),
        ellipse(0.36, -0.7, 0.17, 0.36),
        box(0.25, -0.95, 0.5, -0.3),
        ellipse(0.78, 0.1, 0.24, 0.24),
    )
    return _mirrored(kinds[int(rng.integers(len(kinds)))], rgb)


def _feet(rng: np.random.Generator, rgb: Rgb) -> list[Part]:
    kinds: tuple[Polygon, ...] = (ellipse(0.38, 0.84, 0.28, 0.16), box(0.16, 0.6, 0.46, 0.98), ())
    chosen = kinds[int(rng.integers(len(kinds)))]
    return _mirrored(chosen, rgb) if chosen else []


def _patch(rng: np.random.Generator, rgb: Rgb) -> list[Part]:
    kinds: tuple[Polygon, ...] = (
        ellipse(0, 0.45, 0.34, 0.28),
        box(-0.6, 0.3, 0.6, 0.52),
        ((0, 0.2), (0.36, 0.7), (-0.36, 0.7)),
        (),
    )
    chosen = kinds[int(rng.integers(len(kinds)))]
    return [Part(polygon=chosen, rgb=rgb)] if chosen else []


def _face(rng: np.random.Generator, body: Rgb) -> list[Part]:
    ink = COLOURS["black"] if body != COLOURS["black"] else COLOURS["white"]
    y, radius = float(rng.uniform(-0.15, 0.05)), float(rng.uniform(0.13, 0.2))
    parts = []
    if rng.random() < 0.6:
        parts += _mirrored(ellipse(0.26, y, radius, radius), COLOURS["white"])
        parts += _mirrored(ellipse(0.26, y, radius * 0.55, radius * 0.55), COLOURS["black"])
    else:
        parts += _mirrored(ellipse(0.26, y, radius * 0.8, radius * 0.8), ink)
    if rng.random() < 0.5:
        parts.append(Part(polygon=box(-0.16, y + 0.26, 0.16, y + 0.34), rgb=ink))
    return parts


def subject_figure() -> list[Part]:
    """Return the one subject of the demonstration: an owl-like toy that the toy generator cannot draw."""
    purple, yellow, cyan = COLOURS["purple"], COLOURS["yellow"], COLOURS["cyan"]
    white, black, orange = COLOURS["white"], COLOURS["black"], COLOURS["orange"]
    parts = _mirrored(((0.2, -0.5), (0.86, -1.0), (0.66, -0.1)), cyan)
    parts += _mirrored(ellipse(0.34, 0.9, 0.22, 0.12), orange)
    parts.append(Part(polygon=ellipse(0, 0.08, 0.74, 0.8), rgb=purple))
    parts.append(Part(polygon=ellipse(0, 0.45, 0.4, 0.36), rgb=yellow))
    parts += _mirrored(ellipse(0.3, -0.2, 0.27, 0.27), white)
    parts += _mirrored(ellipse(0.27, -0.2, 0.13, 0.13), black)
    parts.append(Part(polygon=((-0.12, 0.0), (0.12, 0.0), (0, 0.24)), rgb=orange))
    return parts


def scribble_figure(rng: np.random.Generator) -> list[Part]:
    """Return two to seven random polygons: what teaches the VAE more than the scenes hold."""
    parts = []
    for _ in range(int(rng.integers(2, 8))):
        rgb = tuple(int(v) for v in rng.integers(0, 256, 3)) if rng.random() < 0.4 else _any_colour(rng)
        parts.append(Part(polygon=_random_polygon(rng), rgb=(rgb[0], rgb[1], rgb[2])))
    return parts


def _any_colour(rng: np.random.Generator) -> Rgb:
    return list(COLOURS.values())[int(rng.integers(len(COLOURS)))]


def _random_polygon(rng: np.random.Generator) -> Polygon:
    cx, cy = (float(v) for v in rng.uniform(-0.8, 0.8, 2))
    rx, ry = (float(v) for v in rng.uniform(0.08, 0.7, 2))
    kind = rng.integers(3)
    if kind == 0:
        return ellipse(cx, cy, rx, ry)
    if kind == 1:
        return box(cx - rx, cy - ry / 2, cx + rx, cy + ry / 2)
    corners = int(rng.integers(3, 8))
    radii: Sequence[float] = [float(v) for v in rng.uniform(0.4, 1.0, corners)]
    turn = float(rng.uniform(0, 6.28))
    return tuple(
        (cx + rx * r * math.cos(turn + 6.283 * i / corners), cy + ry * r * math.sin(turn + 6.283 * i / corners))
        for i, r in enumerate(radii)
    )
