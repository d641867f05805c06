"""Read one image file: sniffed by content, turned upright, brought to 8-bit RGB; never trusted."""

from __future__ import annotations

import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageColor, UnidentifiedImageError

from sdtune.data.types import Size
from sdtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "AVIF", "GIF")
MAX_PIXELS = 64_000_000
DEFAULT_ALPHA_COLOR = "white"

# What Pillow's decoders were seen to raise on damaged files.
_BROKEN = (OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, struct.error, OverflowError)
_MEND = "mend or remove it"
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHeader:
    """What an image file says of itself.

    Attributes:
        size: Width and height after EXIF rotation.
        format: Pillow's name of the format found in the content, e.g. `JPEG`.
        has_more_frames: Animated, or with several pages; only the first is used.
    """

    size: Size
    format: str
    has_more_frames: bool


def read_header(path: Path) -> ImageHeader:
    """Read an image's header; no pixels are decoded.

    Raises:
        DataError: Not a regular file, not an image of a known format, damaged, or above 64 megapixels.
    """
    with _open_file(path) as file:
        return header_of(file, path)


def header_of(file: IO[bytes], path: Path) -> ImageHeader:
    """Read an image's header from an open file or from its bytes; raises as `read_header`."""
    with _open_image(file, path) as image:
        width, height = image.size
        size = Size(height, width) if _orientation(image) in _SWAPS_SIDES else Size(width, height)
        return ImageHeader(size=size, format=str(image.format), has_more_frames=_has_more_frames(image))


def probe(path: Path) -> Size:
    """Read an image's width and height after EXIF rotation, from the header only; raises as `read_header`."""
    return read_header(path).size


def decode(path: Path, alpha_color: str = DEFAULT_ALPHA_COLOR) -> NDArray[np.uint8]:
    """Decode a file; see `decode_bytes`."""
    return decode_bytes(read_file(path), path, alpha_color)


def read_file(path: Path) -> bytes:
    """Read an image file's bytes.

    Raises:
        DataError: Not a regular file, or it cannot be read.
    """
    with _open_file(path) as file:
        return file.read()


def decode_bytes(data: bytes, path: Path, alpha_color: str = DEFAULT_ALPHA_COLOR) -> NDArray[np.uint8]:
    """Decode the bytes of an image file to upright RGB.

    Args:
        data: The whole file.
        path: The file they came from, for messages.
        alpha_color: Colour under transparent pixels: a name or #rrggbb.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: As `read_header`; also when pixels are cut off or of a kind that has no 8-bit meaning.
    """
    background = parse_color(alpha_color)
    with _open_image(BytesIO(data), path) as image:
        return _to_rgb(_upright(image), background, path)


def decode_alpha(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the upright alpha channel of an image file's bytes: (H, W) uint8, 255 (opaque) where it has none.

    Raises:
        DataError: As `decode_bytes`.
    """
    with _open_image(BytesIO(data), path) as image:
        upright = _upright(image)
        if not upright.has_transparency_data:
            return np.full((upright.height, upright.width), 255, dtype=np.uint8)
        return np.asarray(upright.convert("RGBA").getchannel("A"))


def decode_mask(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the upright brightness of an image file's bytes: (H, W) uint8, 255 white.

    Raises:
        DataError: As `decode_bytes`.
    """
    return np.asarray(Image.fromarray(decode_bytes(data, path, "black")).convert("L"))


def parse_color(color: str) -> tuple[int, int, int]:
    """Read a colour name or #rrggbb.

    Raises:
        DataError: No such colour.
    """
    try:
        return ImageColor.getrgb(color)[:3]
    except ValueError:
        raise DataError(
            f"unknown colour '{color}'", where="data.alpha_color", hint="use a name such as white, or #rrggbb"
        ) from None


def corrupt(path: Path, why: str) -> DataError:
    """Make the error for an image that cannot be used."""
    return DataError(f"corrupt image {path}: {why}", hint=_MEND)


@contextmanager
def _open_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading: opening a FIFO would wait for ever."""
    if not path.is_file():
        raise DataError(f"{path} is not a file" if path.exists() else f"no file {path}", hint="remove or restore it")
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error
    with file:
        yield file


@contextmanager
def _open_image(file: IO[bytes], path: Path) -> Iterator[Image.Image]:
    """Open an image, and tell whatever goes wrong with it as a `DataError`."""
    try:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # for good: `catch_warnings` is not for several threads
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path, f"{image.width}x{image.height}")
            yield image
    except Image.DecompressionBombError:
        raise _too_large(path, "more than 100 megapixels") from None
    except UnidentifiedImageError:
        why = f"its content is none of {', '.join(FORMATS)}" if _size_bytes(file) else "it is empty"
        raise corrupt(path, why) from None
    except _BROKEN as error:
        raise corrupt(path, _one_line(error)) from error


def _too_large(path: Path, size: str) -> DataError:
    return DataError(f"image {path} is too large: {size}", hint=f"shrink it below {MAX_PIXELS // 10**6} megapixels")


def _size_bytes(file: IO[bytes]) -> int:
    return file.seek(0, 2)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """Load an image and turn it as EXIF says."""
    turn = _UPRIGHT.get(_orientation(image))  # before loading: Pillow turns TIFF upright while it loads
    image.load()
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """Read the EXIF orientation that is still to be applied; 1 where there is none or it cannot be read."""
    if image.format == "TIFF":
        return 1
    try:
        # PngImageFile.getexif decodes all pixels to look for metadata behind them; the base class does not.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return 1


def _has_more_frames(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except _BROKEN:
        return False
    return True


def _to_rgb(image: Image.Image, background: tuple[int, int, int], path: Path) -> NDArray[np.uint8]:
    """Bring any mode to (H, W, 3) uint8."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image))
    if image.mode in ("I", "F"):
        raise DataError(f"image {path} has 32-bit pixels (mode {image.mode})", hint="save it with 8 bits per channel")
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))


def _from_16_bit(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale (H, W) 16-bit gray to 8 bits, rounded; Pillow's own conversion clips at 255."""
    scaled = ((gray.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)
