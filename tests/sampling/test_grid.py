import json

import numpy as np
import pytest
from PIL import Image

from sdtune.data.types import Size
from sdtune.errors import ConfigError
from sdtune.sampling.grid import draw_grid, save_picture
from sdtune.sampling.request import PictureRequest, format_infotext

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(color=RED, size=(64, 64)):
    return Image.new("RGB", size, color)


def where(image, color):
    return (np.asarray(image) == color).all(-1)


def count(image, color):
    return where(image, color).sum()


def test_small_pictures_are_enlarged_by_a_whole_factor():
    checks = Image.new("RGB", (64, 64), RED)
    checks.paste(BLUE, (0, 0, 32, 64))
    grid = draw_grid(["a"], ["b"], [[checks]])
    assert (count(grid, RED), count(grid, BLUE)) == (96 * 192, 96 * 192)


@pytest.mark.parametrize("size", [(192, 192), (200, 512), (512, 384)])
def test_large_pictures_keep_every_pixel(size):
    assert count(draw_grid(["a"], ["b"], [[picture(size=size)]]), RED) == size[0] * size[1]


def test_pictures_of_several_sizes_stay_whole():
    row = [picture(RED, (512, 64)), picture(BLUE, (64, 512))]
    grid = draw_grid(["a"], ["b", "c"], [row])
    assert (count(grid, RED), count(grid, BLUE)) == (512 * 64, 64 * 512)


def test_rows_and_columns_are_where_they_were_given():
    grid = draw_grid(["a", "b"], ["c", "d"], [[picture(RED), None], [None, picture(BLUE)]])
    reds, blues = (np.argwhere(where(grid, color)) for color in (RED, BLUE))
    assert (reds.max(0) < blues.min(0)).all()


def test_labels_are_drawn_beside_the_pictures():
    bare, labelled = (draw_grid([label], [label], [[picture()]]) for label in ("", "dog"))
    assert count(labelled, RED) == count(bare, RED)
    assert np.unique(labelled).size > np.unique(bare).size


def test_long_labels_make_room_for_themselves():
    grid = draw_grid(["word " * 100], ["b"], [[picture()]])
    assert grid.height > 500
    assert count(grid, RED) == 192 * 192


@pytest.mark.parametrize("label", ["", "猫と犬", "🐶", "שלום", "кот", "x" * 300, "\n\t", "\x00\ud800"])
def test_no_label_breaks_the_grid(label):
    assert count(draw_grid([label], [label], [[picture()]]), RED) == 192 * 192


def test_grid_without_pictures_is_drawn():
    assert draw_grid(["a"], ["b"], [[None]]).width > 192


def test_wrong_number_of_pictures_is_refused():
    with pytest.raises(ValueError, match="as many pictures"):
        draw_grid(["a"], ["b", "c"], [[picture()]])


def test_saved_picture_tells_how_it_was_made(tmp_path):
    requests = [PictureRequest(prompt=prompt, size=Size(64, 64)) for prompt in ("a dog", "猫")]
    path = save_picture(tmp_path / "a.png", picture(), requests)
    with Image.open(path) as read:
        assert read.text["parameters"] == format_infotext(requests[0])
        assert [entry["prompt"] for entry in json.loads(read.text["sdtune"])] == ["a dog", "猫"]


def test_existing_picture_is_left_unasked(tmp_path):
    save_picture(tmp_path / "a.png", picture(), [])
    with pytest.raises(ConfigError):
        save_picture(tmp_path / "a.png", picture(BLUE), [])
    assert save_picture(tmp_path / "a.png", picture(BLUE), [], overwrite=True).exists()
