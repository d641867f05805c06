"""Rows F32 to F38: files that are cut off, not what they seem, huge, turned, of any mode, animated, of any format."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

import sdtune.data.pictures.file_kinds
from sdtune.config.data import DataOptions
from sdtune.data.index.building import build_index, verify_pixels
from sdtune.data.pictures.images import decode, probe, read_header
from sdtune.errors import DataError
from sdtune.testing.images import draw_picture, write_images
from sdtune.testing.profiles import rgb_profile

SIZE = (48, 32)
CUTS = {"00.jpg": 0.6, "01.jpg": -1, "02.png": 0.6, "03.webp": 0.6}


def cut(path, kept):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)] if kept > 0 else data[:kept])


def index(folder, **options):
    return build_index(DataOptions(path=folder, captions="empty", **options))


def fill(folder, sound):
    """Write sound images, and four that are cut off."""
    write_images(folder, sound, caption=None, image_suffix=".bmp")
    for name, kept in CUTS.items():
        draw_picture((200, 150)).save(folder / name)
        cut(folder / name, kept)


def png(width, height, depth, kind, rows=b""):
    """A PNG of any depth; without rows it claims a size and holds no pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_f32_cut_off_images_are_all_told_at_once(tmp_path):
    fill(tmp_path, 28)
    with pytest.raises(DataError) as caught:
        verify_pixels(index(tmp_path).images)
    assert caught.value.exit_code == 3
    assert [name for name in CUTS if name in str(caught.value)] == list(CUTS)
    assert len(caught.value.problems) == 4


def test_f32_skip_reports_and_goes_on(tmp_path):
    fill(tmp_path, 301)
    found = index(tmp_path, bad_images="skip")
    assert len(found.images) == 301
    assert "left out, since they cannot be read: 00.jpg, 01.jpg, 02.png, 03.webp" in found.notes
    verify_pixels(found.images[:3])


def test_f32_skip_stops_when_more_than_one_in_a_hundred_is_bad(tmp_path):
    fill(tmp_path, 28)
    with pytest.raises(DataError, match="4 of 32 images cannot be read") as caught:
        index(tmp_path, bad_images="skip")
    assert [name for name in CUTS if name in str(caught.value)] == list(CUTS)


@pytest.mark.parametrize(("name", "content"), [("a.jpg", b""), ("a.jpg", b"hello there"), ("a.png", b"<html></html>")])
def test_f33_what_is_no_image_is_refused(tmp_path, name, content):
    write_images(tmp_path, 1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"corrupt image .*{name}"):
        index(tmp_path)


def test_f33_a_png_that_is_called_jpg_is_read_and_noted(tmp_path):
    draw_picture(SIZE).save(tmp_path / "a.jpg", "PNG")
    found = index(tmp_path)
    assert any("not what the name says, read as what it is: a.jpg (PNG)" in note for note in found.notes)
    assert np.array_equal(decode(found.images[0].path), np.asarray(draw_picture(SIZE)))


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((20_000, 20_000), "too large"),
        ((12_000, 12_000), "too large"),
        ((1, 1), "too small"),
        ((1, 10_000), "too small"),
    ],
)
def test_f34_sizes_beyond_reason_are_refused(tmp_path, size, told):
    (tmp_path / "a.png").write_bytes(png(*size, 8, 2))
    with pytest.raises(DataError, match=told):
        index(tmp_path)


BOMB = """
import resource, sys
from pathlib import Path
from sdtune.data.check.pictures import examine
from sdtune.data.pictures.images import decode, read_header
from sdtune.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for look in (read_header, decode):
    try:
        look(Path(sys.argv[1]))
    except DataError as error:
        assert "too large" in str(error)
assert "too large" in examine(Path(sys.argv[1])).error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_f34_a_bomb_takes_no_memory(tmp_path):
    row = b"\0" * 6_000_100
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(200)) + packer.flush()
    made = png(20_000, 20_000, 8, 2)
    chunk = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    (tmp_path / "a.png").write_bytes(made[:33] + chunk + made[-12:])
    answer = subprocess.run(
        [sys.executable, "-c", BOMB, tmp_path / "a.png"], capture_output=True, text=True, check=True
    )
    assert int(answer.stdout) < 20 * 1024  # KiB; the pixels would take 1.2 GB


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 99])
def test_f35_pictures_stand_upright_and_so_do_their_sizes(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    draw_picture(SIZE).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = ImageOps.exif_transpose(image)
    (record,) = index(tmp_path).images
    assert record.size == expected.size
    assert np.array_equal(decode(record.path), np.asarray(expected))


@pytest.mark.parametrize("exif", [b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff", b"Exif\x00\x00nonsense"])
def test_f35_broken_exif_leaves_the_picture_as_it_is(tmp_path, exif):
    draw_picture(SIZE).save(tmp_path / "a.jpg", exif=exif)
    assert index(tmp_path).images[0].size == SIZE


def test_f35_an_orientation_that_means_nothing_is_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    draw_picture(SIZE).save(tmp_path / "a.png", exif=exif)
    assert any("EXIF orientation that cannot be read" in note for note in index(tmp_path).notes)


def over(pixels, alpha, below):
    share = np.asarray(alpha, dtype=float)[..., None] / 255
    return np.asarray(pixels, dtype=float) * share + np.array(below) * (1 - share)


def cmyk(path, is_inverted):
    """Write CMYK by hand: libjpeg keeps it as it is, and Adobe's marker says that 255 is no ink."""
    ink = np.stack([255 - np.asarray(draw_picture(SIZE).convert("RGB"))[..., c] for c in range(3)], axis=-1)
    full = np.concatenate([ink, np.zeros((*ink.shape[:2], 1), np.uint8)], axis=-1)
    Image.fromarray(full, "CMYK").save(path, quality=100, subsampling=0)
    return np.asarray(draw_picture(SIZE), dtype=float)


def sixteen_gray(path, order):
    gray = np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[::-1]).astype(f"{order}u2")
    Image.fromarray(gray).save(path)
    return np.repeat(gray[..., None] / 257, 3, axis=-1)


def sixteen_rgb_png(path):
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1] * 3).reshape(*SIZE[::-1], 3).astype(">u2")
    path.write_bytes(png(*SIZE, 16, 2, b"".join(b"\0" + row.tobytes() for row in values)))
    return values / 257


def sixteen_rgb_tiff(path):
    values = np.linspace(0, 65535, SIZE[0] * SIZE[1] * 3).reshape(*SIZE[::-1], 3).astype("<u2")
    tags = [(256, 4, 1, SIZE[0]), (257, 4, 1, SIZE[1]), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 140), (277, 3, 1, 3), (278, 4, 1, SIZE[1]), (279, 4, 1, values.nbytes), (284, 3, 1, 1)]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    path.write_bytes(
        (b"II*\0" + struct.pack("<I", 8) + table).ljust(134, b"\0") + struct.pack("<3H", 16, 16, 16) + values.tobytes()
    )
    return values / 257


def one_bit(path):
    picture = draw_picture(SIZE).convert("1")
    picture.save(path)
    return np.repeat(np.asarray(picture)[..., None] * 255.0, 3, axis=-1)


def palette(path):
    picture = draw_picture(SIZE).quantize(8)
    picture.save(path, transparency=2)
    return over(picture.convert("RGB"), np.where(np.asarray(picture) == 2, 0, 255), (16, 32, 48))


def gray_alpha(path):
    gray, alpha = draw_picture(SIZE).convert("L"), Image.linear_gradient("L").resize(SIZE)
    Image.merge("LA", (gray, alpha)).save(path)
    return over(gray.convert("RGB"), alpha, (16, 32, 48))


def hidden(path):
    picture, alpha = draw_picture(SIZE), Image.radial_gradient("L").resize(SIZE).point(lambda value: 255 * (value > 90))
    picture.putalpha(alpha)
    picture.save(path)
    return over(picture.convert("RGB"), alpha, (16, 32, 48))


MODES = {
    "CMYK.jpg": lambda path: cmyk(path, is_inverted=True),
    "CMYK.tif": lambda path: cmyk(path, is_inverted=False),
    "I;16.tif": lambda path: sixteen_gray(path, "<"),
    "I;16B.tif": lambda path: sixteen_gray(path, ">"),
    "I;16.png": lambda path: sixteen_gray(path, ">"),
    "RGB 16.png": sixteen_rgb_png,
    "RGB 16.tif": sixteen_rgb_tiff,
    "1.png": one_bit,
    "P.png": palette,
    "LA.png": gray_alpha,
    "RGBA.png": hidden,
}


@pytest.mark.parametrize("name", MODES)
def test_f36_every_mode_is_within_two_levels_of_its_reference(tmp_path, name):
    expected = MODES[name](tmp_path / name)
    assert np.abs(decode(tmp_path / name, "#102030") - expected).mean() <= 2
    assert any(name in note for note in index(tmp_path).notes)  # and told


def test_f36_cmyk_of_adobe_is_inverted_in_the_file_and_not_in_the_picture(tmp_path):
    cmyk(tmp_path / "a.jpg", is_inverted=True)
    assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()[:64]


def test_f36_wide_gamut_is_noted(tmp_path):
    draw_picture(SIZE).save(tmp_path / "a.png", icc_profile=rgb_profile("Wide"))
    assert "1 image with colours of another space than sRGB, converted: a.png (Wide)" in index(tmp_path).notes


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_f37_the_first_frame_is_used_and_noted_or_all_are_refused(tmp_path, suffix):
    frames = [Image.new("RGB", SIZE, color) for color in ("#ff0000", "#0000ff", "#00ff00")]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    found = index(tmp_path)
    assert any("several frames or pages, of which the first is used" in note for note in found.notes)
    assert np.abs(decode(found.images[0].path) - np.array((255.0, 0, 0))).max() <= 1
    with pytest.raises(DataError, match="has several frames or pages"):
        index(tmp_path, animated="refuse")


def test_f38_avif_is_read(tmp_path):
    smooth = Image.radial_gradient("L").resize(SIZE).convert("RGB")
    smooth.save(tmp_path / "a.avif", quality=95)
    assert np.abs(decode(tmp_path / "a.avif") - np.asarray(smooth, dtype=float)).mean() < 2


@pytest.fixture
def heic(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = Image.linear_gradient("L").resize((96, 64)).convert("RGB")
    pillow_heif.from_pillow(smooth).save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
    return tmp_path / "a.heic", smooth


def test_f38_heic_is_read_upright_with_the_extra(heic):
    path, smooth = heic
    found = index(path.parent)
    assert found.images[0].size == probe(path) == (64, 96)
    assert read_header(path).format == "HEIF"
    assert np.abs(decode(path) - np.rot90(np.asarray(smooth, dtype=float), -1)).mean() < 3


def test_f38_heic_without_the_extra_names_what_to_install(heic, monkeypatch):
    monkeypatch.setattr(sdtune.data.pictures.images, "open_formats", lambda: sdtune.data.pictures.file_kinds.FORMATS)
    with pytest.raises(DataError, match=r"a\.heic is HEIC, which cannot be read; .*pip install sdtune\[heic\]"):
        index(heic[0].parent)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jxl", b"\xff\x0a"), ("a.psd", b"8BPS"), ("a.nef", b""), ("a.jpg", b"\xff\x0a"), ("a.png", b"8BPS\0\1")],
)
def test_f38_other_formats_are_refused_by_name(tmp_path, name, content):
    write_images(tmp_path, 1)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.* cannot be read; convert it to JPEG or PNG"):
        index(tmp_path)
