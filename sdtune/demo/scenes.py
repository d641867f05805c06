"""Captioned scenes: every picture and every caption is a pure function of (seed, index)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from sdtune.demo.drawing import SIZE_PX, STYLES, TEXTURES, Canvas, Placement, draw
from sdtune.demo.figures import COLOURS, GREY, SHAPES, scribble_figure, shape_figure, subject_figure, toy_figure

if TYPE_CHECKING:
    from PIL import Image

    from sdtune.demo.figures import Part, Rgb

Split = Literal["train", "held_out", "all"]

TOY = "toy"
NOUNS = (*SHAPES, TOY)
BACKGROUNDS: dict[str, Rgb] = {**COLOURS, "grey": GREY}
SIZES: dict[str, tuple[float, float]] = {"small": (13.5, 15.0), "medium": (18.0, 20.0), "large": (23.5, 25.5)}
POSITIONS: dict[str, tuple[int, int]] = {
    "centre": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
TRIGGER = "zwx"
_SCENE, _JITTER, _SCRIBBLE, _SUBJECT = range(4)  # purposes: independent random streams of one seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What a picture shows, attribute by attribute; `key` seeds the jitter of its drawing."""

    shape: str
    colour: str
    background: str
    size: str
    position: str
    texture: str
    background_texture: str
    style: str
    key: tuple[int, int]


CHOICES: dict[str, tuple[str, ...]] = {
    "shape": NOUNS,
    "colour": tuple(COLOURS),
    "background": tuple(BACKGROUNDS),
    "size": tuple(SIZES),
    "position": tuple(POSITIONS),
    "texture": TEXTURES,
    "background_texture": TEXTURES,
    "style": STYLES,
}


def is_held_out_pair(shape: str, colour: str) -> bool:
    """Tell whether this shape never appears in this colour in training; one colour of each of the eight shapes."""
    if shape not in SHAPES:
        return False
    return list(COLOURS).index(colour) == (3 * SHAPES.index(shape) + 1) % len(COLOURS)


def is_held_out(shape: str, colour: str, background: str) -> bool:
    """Tell whether training never sees this combination: a held-out pair, or one triple in ten by a stable hash."""
    if is_held_out_pair(shape, colour):
        return True
    return shape in SHAPES and zlib.crc32(f"{shape}|{colour}|{background}".encode()) % 10 == 0


def sample_scene(seed: int, index: int, split: Split = "train") -> Scene:
    """Return scene number `index` of a seed; its combination belongs to the split."""
    rng = np.random.default_rng([_SCENE, seed, index])
    while True:
        scene = _any_scene(rng, (seed, index))
        held_out = is_held_out(scene.shape, scene.colour, scene.background)
        if split == "all" or held_out == (split == "held_out"):
            return scene


def _any_scene(rng: np.random.Generator, key: tuple[int, int]) -> Scene:
    colour, background = (tuple(table)[int(rng.integers(len(table)))] for table in (COLOURS, BACKGROUNDS))
    while background == colour:
        background = tuple(BACKGROUNDS)[int(rng.integers(len(BACKGROUNDS)))]
    textures = rng.choice(TEXTURES, 2, p=[0.64, 0.12, 0.12, 0.12])
    return Scene(
        shape=str(rng.choice(NOUNS)),
        colour=colour,
        background=background,
        size=str(rng.choice(tuple(SIZES))),
        position=str(rng.choice(tuple(POSITIONS), p=[0.28] + [0.09] * 8)),
        texture=str(textures[0]),
        background_texture=str(textures[1]),
        style=str(rng.choice(STYLES, p=[0.43, 0.19, 0.19, 0.19])),
        key=key,
    )


def _jittered(rng: np.random.Generator, rgb: Rgb, amount: int = 7) -> Rgb:
    red, green, blue = (int(v) for v in np.clip(np.array(rgb) + rng.integers(-amount, amount + 1, 3), 0, 255))
    return red, green, blue


def _place(rng: np.random.Generator, size: str, position: str) -> Placement:
    radius = float(rng.uniform(*SIZES[size]))
    room = SIZE_PX / 2 - 2.0 - radius
    (dx, dy), wobble = POSITIONS[position], rng.uniform(-1.2, 1.2, 2)
    shift_x, shift_y = (
        float(np.clip(d * room + w, -room - 1, room + 1)) for d, w in zip((dx, dy), wobble, strict=True)
    )
    return Placement(cx_px=SIZE_PX / 2 + shift_x, cy_px=SIZE_PX / 2 + shift_y, radius_px=radius)


def draw_scene(scene: Scene) -> Image.Image:
    """Return the 64 x 64 RGB picture of a scene."""
    rng = np.random.default_rng([_JITTER, *scene.key])
    place = _place(rng, scene.size, scene.position)
    rgb = _jittered(rng, COLOURS[scene.colour])
    canvas = Canvas(rgb=_jittered(rng, BACKGROUNDS[scene.background]), texture=scene.background_texture)
    is_toy = scene.shape == TOY
    figure = toy_figure(rng, COLOURS[scene.colour]) if is_toy else shape_figure(scene.shape, rgb)
    # an outline around every part of a toy would cover its face
    style = "flat" if is_toy and scene.style == "outlined" else scene.style
    return draw(figure, place, canvas, texture="plain" if is_toy else scene.texture, style=style)


def scribble(seed: int, index: int) -> Image.Image:
    """Return a picture of random polygons or a toy without a caption: VAE training beyond the scenes."""
    rng = np.random.default_rng([_SCRIBBLE, seed, index])
    scene = _any_scene(rng, (seed, index))
    colour = _jittered(rng, COLOURS[scene.colour])
    figure = scribble_figure(rng) if rng.random() < 0.7 else toy_figure(rng, colour)
    place = _place(rng, str(rng.choice(["medium", "large"])), scene.position)
    canvas = Canvas(rgb=_jittered(rng, BACKGROUNDS[scene.background], 60), texture=scene.background_texture)
    return draw(figure, place, canvas, texture=scene.texture if rng.random() < 0.3 else "plain", style=scene.style)


def draw_same_toy(figure_key: int, index: int) -> Image.Image:
    """Return one toy, given by its key, in a position, size and background given by the index."""
    figure_rng = np.random.default_rng([_SCRIBBLE, figure_key])
    colour = list(COLOURS.values())[int(figure_rng.integers(len(COLOURS)))]
    return _draw_around(toy_figure(figure_rng, colour), np.random.default_rng([_SUBJECT, figure_key, index]))


def _draw_around(figure: list[Part], rng: np.random.Generator) -> Image.Image:
    scene = _any_scene(rng, (0, 0))
    place = _place(rng, str(rng.choice(["medium", "large"])), scene.position)
    canvas = Canvas(rgb=_jittered(rng, BACKGROUNDS[scene.background]), texture=scene.background_texture)
    return draw(figure, place, canvas)


_SUBJECT_VIEWS = (
    ("large", "centre", "blue"),
    ("medium", "left", "white"),
    ("medium", "bottom right", "green"),
    ("large", "top", "grey"),
    ("medium", "top left", "red"),
    ("large", "bottom", "pink"),
    ("medium", "right", "orange"),
    ("medium", "centre", "black"),
)


def draw_subject(index: int, *, trigger: str = TRIGGER) -> tuple[Image.Image, str]:
    """Return a picture of the demonstration's subject and its caption; views repeat after eight, with other jitter."""
    size, position, background = _SUBJECT_VIEWS[index % len(_SUBJECT_VIEWS)]
    rng = np.random.default_rng([_SUBJECT, index])
    place = _place(rng, size, position)
    picture = draw(subject_figure(), place, Canvas(rgb=_jittered(rng, BACKGROUNDS[background])))
    return picture, f"a photo of a {trigger} {TOY} on a {background} background"


def subject_images(count: int = 5, *, trigger: str = TRIGGER) -> list[tuple[Image.Image, str]]:
    """Return the first `count` captioned pictures of the subject: a whole training set for a method."""
    return [draw_subject(index, trigger=trigger) for index in range(count)]
