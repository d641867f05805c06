"""Unusual images are told by kind, with names and numbers."""

import pytest
from PIL import Image

from sdtune.config.data import DataOptions
from sdtune.data.index.header_notes import HeaderNotes
from sdtune.data.pictures.images import read_header
from sdtune.testing.profiles import rgb_profile

SIZE = (32, 32)


def lines(paths, **options):
    notes = HeaderNotes()
    for path in paths:
        notes.add(path.name, read_header(path), DataOptions(**options))
    return notes.lines()


def saved(path, mode="RGB", **extra):
    Image.new(mode, SIZE).save(path, **extra)
    return path


def turned(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize(
    ("name", "mode", "extra", "line"),
    [
        ("a.jpg", "CMYK", {}, "CMYK colours, converted to sRGB: a.jpg"),
        ("a.png", "I;16", {}, "16 bit a channel, brought to 8: a.png"),
        ("a.png", "1", {}, "1 bit a channel, brought to 8: a.png"),
        ("a.png", "LA", {}, "transparency, and white below (data.alpha_color): a.png"),
        (
            "a.png",
            "RGB",
            {"format": "JPEG"},
            "content that is not what the name says, read as what it is: a.png (JPEG)",
        ),
        ("a.png", "RGB", {"icc_profile": b"x"}, "a colour profile that cannot be used, taken as they are: a.png"),
        ("a.png", "RGB", {"icc_profile": rgb_profile("P")}, "colours of another space than sRGB, converted: a.png (P)"),
        ("a.png", "RGB", {"exif": turned(99)}, "an EXIF orientation that cannot be read, taken as they are: a.png"),
    ],
)
def test_what_is_unusual_is_told(tmp_path, name, mode, extra, line):
    assert lines([saved(tmp_path / name, mode, **extra)]) == [f"1 image with {line}"]


@pytest.mark.parametrize(("name", "mode"), [("a.jpeg", "RGB"), ("a.PNG", "L"), ("a.tif", "RGB"), ("a.webp", "RGB")])
def test_usual_images_are_not_told(tmp_path, name, mode):
    assert lines([saved(tmp_path / name, mode, exif=turned(6))]) == []


def test_transparency_that_weighs_the_loss_is_told_as_such(tmp_path):
    (line,) = lines([saved(tmp_path / "a.png", "RGBA")], alpha_weight=True, alpha_color="gray")
    assert "transparency, which weighs the loss, and gray below" in line


def test_above_five_names_are_counted(tmp_path):
    header = read_header(saved(tmp_path / "a.png", "1"))
    notes = HeaderNotes()
    for number in range(8):
        notes.add(f"{number}.png", header, DataOptions())
    assert notes.lines()[0].endswith("0.png, 1.png, 2.png, 3.png, 4.png and 3 more")
