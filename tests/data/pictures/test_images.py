import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from sdtune.data.pictures.images import decode, probe, read_header
from sdtune.errors import DataError
from sdtune.testing.images import draw_picture

SIZE = (48, 32)


@pytest.fixture
def picture():
    return draw_picture(SIZE, seed=3)


@pytest.fixture
def smooth():
    """A picture that lossy formats keep well."""
    bands = [Image.linear_gradient("L").resize(SIZE), Image.radial_gradient("L").resize(SIZE)]
    return Image.merge("RGB", [*bands, bands[0].transpose(Image.Transpose.FLIP_TOP_BOTTOM)])


def mean_error(a, b):
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()


def png_header(width, height):
    """A PNG that claims a size and holds no pixels."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", body) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
def test_lossless_formats_decode_to_the_same_pixels(tmp_path, picture, suffix):
    path = tmp_path / f"a{suffix}"
    picture.save(path, lossless=True)
    assert np.array_equal(decode(path), np.asarray(picture))


@pytest.mark.parametrize("suffix", [".jpg", ".avif", ".gif"])
def test_lossy_formats_decode_to_similar_pixels(tmp_path, smooth, suffix):
    path = tmp_path / f"a{suffix}"
    smooth.save(path)
    assert mean_error(decode(path), smooth) < 10  # GIF has 256 colours


def test_content_counts_and_not_the_suffix(tmp_path, picture):
    path = tmp_path / "a.jpg"
    picture.save(path, format="PNG")
    assert read_header(path).format == "PNG"
    assert np.array_equal(decode(path), np.asarray(picture))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 99])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_exif_orientation_turns_pixels_and_size(tmp_path, picture, orientation, suffix):
    path = tmp_path / f"a{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif, lossless=True)
    with Image.open(path) as again:
        expected = ImageOps.exif_transpose(again).convert("RGB")
    assert probe(path) == expected.size
    assert np.array_equal(decode(path), np.asarray(expected))


def test_quarter_turn_of_a_photograph(tmp_path, smooth):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(path, exif=exif, quality=95)
    assert probe(path) == (32, 48)
    assert mean_error(decode(path), np.rot90(np.asarray(smooth), -1)) < 4


def test_broken_exif_leaves_the_picture_as_it_is(tmp_path, picture):
    path = tmp_path / "a.jpg"
    picture.save(path, exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert probe(path) == SIZE
    assert decode(path).shape == (32, 48, 3)


@pytest.mark.parametrize("color", ["white", "#102030"])
def test_hidden_colour_gives_way_to_the_alpha_colour(tmp_path, color):
    path = tmp_path / "a.png"
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(path)
    assert np.array_equal(decode(path, color), np.asarray(Image.new("RGB", (20, 20), color)))


def test_half_transparent_pixels_are_mixed(tmp_path):
    path = tmp_path / "a.png"
    Image.new("LA", (20, 20), (0, 128)).save(path)
    assert np.abs(decode(path, "white").astype(int) - 127).max() <= 1


def test_palette_with_transparent_entry_shows_the_alpha_colour(tmp_path):
    path = tmp_path / "a.png"
    paletted = Image.new("P", (20, 20), 0)
    paletted.putpalette([255, 0, 0, 0, 255, 0])
    paletted.putpixel((0, 0), 1)
    paletted.save(path, transparency=0)
    pixels = decode(path, "white")
    assert pixels[0, 0].tolist() == [0, 255, 0]
    assert pixels[1, 1].tolist() == [255, 255, 255]


def test_rgb_with_a_transparent_colour_shows_the_alpha_colour(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 20), (1, 2, 3)).save(path, transparency=(1, 2, 3))
    assert (decode(path, "white") == 255).all()


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_keeps_its_polarity(tmp_path, smooth, suffix):
    path = tmp_path / f"a{suffix}"
    smooth.convert("CMYK").save(path)
    assert mean_error(decode(path), smooth) < 4


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_gray_is_scaled(tmp_path, dtype, suffix):
    path = tmp_path / f"a{suffix}"
    gray = np.linspace(0, 65535, 40 * 30).reshape(30, 40).astype(dtype)
    Image.fromarray(gray).save(path)
    assert np.abs(decode(path)[:, :, 0] - gray / 257).max() <= 0.5


def test_16_bit_rgb_is_scaled(tmp_path):
    path = tmp_path / "a.png"
    values = np.linspace(0, 65535, 30 * 20 * 3).reshape(20, 30, 3).astype(">u2")
    rows = b"".join(b"\x00" + row.tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert mean_error(decode(path), values / 257) <= 2


def test_one_bit_becomes_black_and_white(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (20, 20), 1).save(path)
    assert (decode(path) == 255).all()


def test_32_bit_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.new("F", (20, 20), 0.5).save(path)
    with pytest.raises(DataError, match=r"32-bit pixels"):
        decode(path)


def test_animation_gives_its_first_frame(tmp_path, picture):
    path = tmp_path / "a.webp"
    picture.save(path, save_all=True, append_images=[Image.new("RGB", SIZE)], lossless=True)
    assert read_header(path).has_more_frames
    assert np.array_equal(decode(path), np.asarray(picture))


@pytest.mark.parametrize(("suffix", "kept"), [(".jpg", 0.6), (".png", 0.6), (".webp", 0.6), (".jpg", 0.98)])
def test_cut_off_file_is_an_error_that_names_it(tmp_path, picture, suffix, kept):
    path = tmp_path / f"a{suffix}"
    picture.resize((400, 300)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DataError, match=rf"corrupt image .*a{suffix}: .*; mend or remove it"):
        decode(path)


def test_jpeg_without_its_last_byte_is_an_error(tmp_path, picture):
    path = tmp_path / "a.jpg"
    picture.save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated"):
        decode(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"<html></html>", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>"]
)
def test_content_that_is_no_image_is_an_error(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="corrupt image"):
        probe(path)


def test_icon_content_is_not_opened(tmp_path, picture):
    path = tmp_path / "a.png"
    picture.save(path, format="ICO")
    with pytest.raises(DataError, match="its content is none of"):
        probe(path)


@pytest.mark.parametrize("side", [8100, 12000, 20000])
def test_bomb_is_refused_by_its_header(tmp_path, side):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(side, side))
    with pytest.raises(DataError, match="too large"):
        probe(path)


def test_messages_are_one_line(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 30)
    with pytest.raises(DataError) as caught:
        decode(path)
    assert "\n" not in str(caught.value)


def test_unknown_colour_is_an_error(tmp_path, picture):
    path = tmp_path / "a.png"
    picture.save(path)
    with pytest.raises(DataError, match="unknown colour 'whitish'"):
        decode(path, "whitish")


def test_folder_is_not_an_image(tmp_path):
    with pytest.raises(DataError, match="is not a file"):
        decode(tmp_path)
