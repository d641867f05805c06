"""What is seen of one picture, on drawings; thresholds are held on photographs where they are here."""

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from sdtune.data.check.pictures import PictureFacts, examine, near_duplicates
from sdtune.testing.images import draw_picture
from sdtune.testing.profiles import rgb_profile

PHOTOS = Path(__file__).parents[4] / "shared/data/dreambooth"
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photographs are not here")


def textured(size=(400, 300), seed=0):
    """A picture with detail of all sizes, as photographs have it: power falls as 1/f^2."""
    draws = np.random.default_rng(seed)
    height, width = size[1], size[0]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    waves = np.fft.rfft2(draws.normal(size=(height, width))) / np.maximum(frequency, 1)
    values = np.fft.irfft2(waves, s=(height, width))
    return Image.fromarray(np.clip(128 + 45 * values / values.std(), 0, 255).astype(np.uint8)).convert("RGB")


def saved(picture, kind="PNG", **extra):
    buffer = BytesIO()
    picture.save(buffer, kind, **extra)
    return buffer.getvalue()


def shrunk_and_enlarged(picture, factor):
    small = picture.resize((picture.width // factor, picture.height // factor), Image.Resampling.LANCZOS)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def moved(picture, length):
    return picture.filter(ImageFilter.BoxBlur((length / 2, 0)))


def test_a_plain_picture_has_no_defect():
    facts = examine(saved(textured()))
    assert (facts.error, facts.format, facts.width, facts.height, facts.mode, facts.bits) == (
        "",
        "PNG",
        400,
        300,
        "RGB",
        8,
    )
    assert not any([facts.is_blank, facts.is_blurred, facts.is_enlarged, facts.has_frame, facts.is_poor_jpeg])
    assert (facts.transparent, facts.quality, facts.profile, facts.orientation) == (0, None, "none", 1)


def test_facts_survive_json():
    facts = examine(saved(textured()))
    assert PictureFacts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_a_file_gives_what_its_bytes_give(tmp_path):
    (tmp_path / "a.png").write_bytes(saved(textured()))
    assert examine(tmp_path / "a.png") == examine(saved(textured()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_cut_off_file_is_told(kind):
    data = saved(textured(), kind)
    assert "corrupt image" in examine(data[: len(data) // 2]).error


def test_a_missing_file_is_told(tmp_path):
    facts = examine(tmp_path / "gone.png")
    assert "no file" in facts.error
    assert not facts.is_blank
    assert facts.remedy


def test_header_facts():
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = examine(saved(textured(), "JPEG", exif=exif, icc_profile=rgb_profile("Wide"), quality=40))
    assert (facts.width, facts.height, facts.orientation) == (300, 400, 6)
    assert (facts.profile, facts.icc) == ("other", "Wide")
    assert facts.quality == 40
    assert facts.is_poor_jpeg


def test_transparency_is_a_share():
    picture = textured()
    picture.putalpha(Image.new("L", picture.size, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 100, 300))
    assert examine(saved(picture)).transparent == 0.25


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "RGBA", "LA"])
def test_any_mode_is_looked_at(mode):
    facts = examine(
        saved(textured().convert("L").convert(mode) if mode == "I;16" else textured().convert(mode), "TIFF")
    )
    assert facts.mode == mode
    assert facts.error == ""


@pytest.mark.parametrize("color", ["black", "white", "#305080"])
def test_a_picture_of_one_colour_is_blank_and_nothing_else(color):
    facts = examine(saved(Image.new("RGB", (300, 300), color), "JPEG"))
    assert facts.is_blank
    assert not any([facts.is_blurred, facts.is_enlarged, facts.has_frame])


@pytest.mark.parametrize(
    "blur", [lambda picture: picture.filter(ImageFilter.GaussianBlur(4)), lambda picture: moved(picture, 15)]
)
def test_a_blurred_picture_is_told(blur):
    assert examine(saved(blur(textured()))).is_blurred


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_an_enlarged_picture_is_told_with_its_factor(factor):
    facts = examine(saved(shrunk_and_enlarged(textured((768, 768)), factor)))
    assert facts.is_enlarged
    assert facts.falloff_scale == pytest.approx(factor, rel=0.4)


@pytest.mark.parametrize("sides", [(60, 0), (0, 40)])
@pytest.mark.parametrize("color", ["black", "white"])
def test_a_frame_is_told_with_its_share(sides, color):
    framed = ImageOps.expand(textured(), (*sides, *sides), color)
    left, top, right, bottom = examine(saved(framed)).borders
    assert left == right == pytest.approx(sides[0] / framed.width, abs=0.01)
    assert top == bottom == pytest.approx(sides[1] / framed.height, abs=0.01)


def test_a_subject_before_a_plain_background_has_no_frame():
    picture = Image.new("RGB", (300, 300), "white")
    picture.paste(
        textured((160, 160)), (70, 70), Image.radial_gradient("L").resize((160, 160)).point(lambda v: 255 * (v < 120))
    )
    assert not examine(saved(picture)).has_frame


def test_large_jpegs_are_looked_at_smaller():
    facts = examine(saved(draw_picture((2600, 2200)), "JPEG"))
    assert (facts.width, facts.height) == (2600, 2200)


@needs_photos
@pytest.mark.slow
def test_photographs_have_no_defects_but_those_they_have():
    paths = sorted(PHOTOS.rglob("*.jpg"))
    facts = [examine(path) for path in paths]
    assert not [
        path for path, fact in zip(paths, facts, strict=True) if fact.is_blurred or fact.is_enlarged or fact.is_blank
    ]
    framed = [f"{path.parent.name}/{path.name}" for path, fact in zip(paths, facts, strict=True) if fact.has_frame]
    assert framed in ([], ["dog8/02.jpg"])  # black stripes are in the file
    pairs = [[f"{paths[place].parent.name}/{paths[place].name}" for place in group] for group in near_duplicates(facts)]
    assert pairs in ([], [["dog5/02.jpg", "dog5/03.jpg"]])  # one is the other, mirrored


@needs_photos
@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "claim", "least"),
    [
        (lambda photo: photo.filter(ImageFilter.GaussianBlur(photo.width / 300)), "is_blurred", 0.95),
        (lambda photo: moved(photo, photo.width // 40), "is_blurred", 0.9),
        (lambda photo: shrunk_and_enlarged(photo.resize((1280, 1280)), 2), "is_enlarged", 0.95),
        (lambda photo: shrunk_and_enlarged(photo, 3), "is_enlarged", 0.95),
        (lambda photo: shrunk_and_enlarged(photo, 4), "is_enlarged", 0.95),
    ],
    ids=["blurred", "moved", "twice", "three times", "four times"],
)
def test_spoilt_photographs_are_told(spoil, claim, least):
    paths = sorted(PHOTOS.rglob("*.jpg"))[::2]
    told = [getattr(examine(saved(spoil(Image.open(path)), "JPEG", quality=92)), claim) for path in paths]
    assert sum(told) / len(told) >= least
