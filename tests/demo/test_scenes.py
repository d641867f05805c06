"""Scenes and captions are deterministic, keep the held-out combinations apart, and say what they show."""

from __future__ import annotations

import numpy as np
import pytest

from sdtune.demo.captions import UNMENTIONED, caption
from sdtune.demo.figures import COLOURS, SHAPES
from sdtune.demo.scenes import (
    BACKGROUNDS,
    CHOICES,
    TRIGGER,
    Scene,
    draw_scene,
    draw_subject,
    is_held_out,
    is_held_out_pair,
    sample_scene,
    subject_images,
)


def scene(**changes: str) -> Scene:
    plain = {
        "shape": "circle", "colour": "red", "background": "blue", "size": "medium", "position": "centre",
        "texture": "plain", "background_texture": "plain", "style": "flat",
    }  # fmt: skip
    return Scene(**(plain | changes), key=(0, 0))


def colour_mask(picture: np.ndarray, name: str) -> np.ndarray:
    return np.abs(picture.astype(int) - np.array(COLOURS[name])).max(-1) < 30


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    first, again = sample_scene(3, 7), sample_scene(3, 7)
    assert first == again
    assert np.array_equal(draw_scene(first), draw_scene(again))
    assert caption(first, 0) == caption(again, 0)


def test_training_scenes_hold_no_held_out_combination() -> None:
    scenes = [sample_scene(0, index) for index in range(2000)]
    assert not any(is_held_out(s.shape, s.colour, s.background) for s in scenes)


def test_held_out_scenes_hold_nothing_else() -> None:
    scenes = [sample_scene(0, index, "held_out") for index in range(200)]
    assert all(is_held_out(s.shape, s.colour, s.background) for s in scenes)


def test_every_shape_lacks_one_colour_in_training() -> None:
    pairs = [(shape, colour) for shape in SHAPES for colour in COLOURS if is_held_out_pair(shape, colour)]
    assert [shape for shape, _ in pairs] == list(SHAPES)
    assert len({colour for _, colour in pairs}) == len(SHAPES)


def test_about_a_fifth_of_the_combinations_are_held_out() -> None:
    combinations = [(s, c, b) for s in SHAPES for c in COLOURS for b in BACKGROUNDS if b != c]
    share = np.mean([is_held_out(*combination) for combination in combinations])
    assert 0.15 < share < 0.25


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_drawn_in_its_colour(shape: str) -> None:
    picture = np.asarray(draw_scene(scene(shape=shape)))
    share = colour_mask(picture, "red").mean()
    assert 0.05 < share < 0.35
    assert colour_mask(picture, "blue").mean() > 1 - share - 0.1


@pytest.mark.parametrize(
    ("position", "x_px", "y_px"),
    [("left", 20, 32), ("right", 44, 32), ("top", 32, 20), ("bottom", 32, 44), ("top left", 20, 20)],
)
def test_a_position_is_where_it_says(position: str, x_px: int, y_px: int) -> None:
    mask = colour_mask(np.asarray(draw_scene(scene(position=position))), "red")
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - x_px) < 4
    assert abs(rows.mean() - y_px) < 4


def test_sizes_are_ordered() -> None:
    areas = [
        colour_mask(np.asarray(draw_scene(scene(size=size))), "red").mean() for size in ("small", "medium", "large")
    ]
    assert areas[0] * 1.5 < areas[1]
    assert areas[1] * 1.5 < areas[2]


@pytest.mark.parametrize("index", range(20))
def test_a_caption_names_the_colour_it_claims_to_mention(index: int) -> None:
    shown = sample_scene(5, index)
    said = caption(shown, 0)
    label = said.labels[list(CHOICES).index("colour")]
    colour_words = f" {said.text},".replace(",", " ")
    assert label == UNMENTIONED or f" {shown.colour} " in colour_words


def test_variants_of_a_caption_differ() -> None:
    shown = sample_scene(5, 1)
    assert len({caption(shown, variant).text for variant in range(8)}) > 4


def test_the_subject_comes_in_different_pictures_with_the_trigger() -> None:
    pairs = subject_images(5)
    assert len({picture.tobytes() for picture, _ in pairs}) == 5
    assert all(f" {TRIGGER} " in text for _, text in pairs)


def test_the_trigger_can_be_chosen() -> None:
    assert draw_subject(0, trigger="qqq")[1] == "a photo of a qqq toy on a blue background"
