"""Colours of any file, against formulas of their own."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from sdtune.data.pictures.colors import read_profile
from sdtune.data.pictures.images import decode, read_header
from sdtune.testing.images import draw_picture
from sdtune.testing.profiles import ADOBE_RGB, cmyk_profile, rgb_profile

SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = rgb_profile("Wide")


@pytest.fixture
def picture():
    return draw_picture((48, 32), seed=3)


def saved(path, picture, profile):
    picture.save(path, icc_profile=profile)
    return path


def adobe_to_srgb(values):
    """From encoded Adobe RGB over linear light and XYZ to encoded sRGB, (..., 3) in 0 to 255."""
    xyz = (values / 255.0) ** (563 / 256) @ np.array(ADOBE_RGB)
    linear = np.clip(xyz @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_wide_gamut_is_converted_to_srgb(tmp_path, picture, suffix):
    path = saved(tmp_path / f"a{suffix}", picture, WIDE)
    expected = adobe_to_srgb(np.asarray(picture, dtype=float))
    assert np.abs(decode(path) - expected).mean() < 0.5
    assert np.abs(np.asarray(picture) - expected).mean() > 3
    assert (read_header(path).profile, read_header(path).icc) == ("other", "Wide")


def test_transparency_is_kept_while_colours_are_converted(tmp_path, picture):
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    path = saved(tmp_path / "a.png", picture, WIDE)
    share = np.asarray(picture.getchannel("A"), dtype=float)[..., None] / 255
    expected = adobe_to_srgb(np.asarray(picture.convert("RGB"), dtype=float)) * share + 255 * (1 - share)
    assert np.abs(decode(path) - expected).mean() < 1


def test_a_palette_is_converted_by_its_colours(tmp_path, picture):
    paletted = picture.quantize(16)
    path = saved(tmp_path / "a.png", paletted, WIDE)
    assert np.abs(decode(path) - adobe_to_srgb(np.asarray(paletted.convert("RGB"), dtype=float))).mean() < 0.5


@pytest.mark.parametrize("profile", [SRGB_PROFILE, rgb_profile("gray only")[:100], b"nonsense", b""])
def test_srgb_and_broken_profiles_change_no_bit(tmp_path, picture, profile):
    assert np.array_equal(decode(saved(tmp_path / "a.png", picture, profile)), np.asarray(picture))


def test_a_profile_for_pixels_of_another_kind_is_not_used(tmp_path, picture):
    path = saved(tmp_path / "a.png", picture.convert("L"), WIDE)
    assert read_header(path).profile == "broken"
    assert np.array_equal(decode(path), np.asarray(picture.convert("L").convert("RGB")))


def test_without_a_profile_there_is_none(picture):
    assert read_profile(picture).kind == "none"


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_goes_by_its_profile(tmp_path, suffix):
    paper, cyan = (255, 128, 128), (140, 93, 80)  # Lab of white, and of a printer's cyan: not that of a screen
    inks = [paper if mixture < 8 else cyan for mixture in range(16)]
    profile = cmyk_profile("Press", inks)
    path = saved(tmp_path / f"a{suffix}", Image.new("CMYK", (32, 32), (255, 0, 0, 0)), profile)
    assert np.abs(decode(path).reshape(-1, 3).mean(axis=0) - (0, 144, 215)).max() < 8
    assert saved(tmp_path / f"b{suffix}", Image.new("CMYK", (32, 32)), profile)
    assert decode(tmp_path / f"b{suffix}").min() > 250
