"""Read one image file: sniffed by content, turned upright, brought to 8-bit sRGB; never trusted."""

from __future__ import annotations

import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from sdtune.data.pictures.colors import parse_color, read_profile, to_rgb
from sdtune.data.pictures.file_kinds import FORMATS, HEIC_HINT, foreign_kind, open_formats
from sdtune.data.types import Size
from sdtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from numpy.typing import NDArray

    from sdtune.data.pictures.colors import ProfileKind

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
        mode: Pillow's mode before any conversion, e.g. `CMYK`.
        bits: Bits of each channel.
        has_alpha: It has an alpha channel, or a colour that stands for transparency.
        orientation: EXIF orientation; 1: as stored, 0: it cannot be read.
        icc: Name of the colour profile in the file; empty when there is none.
        profile: What becomes of that profile.
    """

    size: Size
    format: str
    has_more_frames: bool
    mode: str
    bits: int
    has_alpha: bool
    orientation: int
    icc: str
    profile: ProfileKind


def read_header(path: Path) -> ImageHeader:
    """Read an image's header; no pixels are decoded.

    Raises:
        DataError: Not a regular file, not an image of a known format, damaged, or above 64 megapixels.
    """
    with _open_file(path) as file, open_image(file, path) as image:
        return _describe(image)


def describe_bytes(data: bytes, path: Path) -> ImageHeader:
    """Read the header of an image file's bytes; raises as `read_header`."""
    with open_image(BytesIO(data), path) as image:
        return _describe(image)


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
    """Decode the bytes of an image file to upright sRGB, always at full size.

    A JPEG decoded at half its size and then shrunk is off by 1.1 to 2.1 levels on average (photographs shrunk 2 to 7
    times), and farther from the mean over areas than what is shrunk at once.

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
    with open_image(BytesIO(data), path) as image:
        return to_rgb(upright(image), background, path)


def decode_alpha(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the upright alpha channel of an image file's bytes: (H, W) uint8, 255 (opaque) where it has none.

    Raises:
        DataError: As `decode_bytes`.
    """
    with open_image(BytesIO(data), path) as image:
        turned = upright(image)
        if not turned.has_transparency_data:
            return np.full((turned.height, turned.width), 255, dtype=np.uint8)
        return np.asarray(turned.convert("RGBA").getchannel("A"))


def decode_mask(data: bytes, path: Path) -> NDArray[np.uint8]:
    """Decode the upright brightness of an image file's bytes: (H, W) uint8, 255 white.

    Raises:
        DataError: As `decode_bytes`.
    """
    return np.asarray(Image.fromarray(decode_bytes(data, path, "black")).convert("L"))


def read_levels(path: Path) -> tuple[float, int, int]:
    """Give the mean brightness of an image file, 0 to 1, and its darkest and its brightest value, 0 to 255.

    Raises:
        DataError: As `decode_bytes`.
    """
    with _open_file(path) as file, open_image(file, path) as image:
        image.load()
        counts = image.convert("L").histogram()
    levels = [level for level, count in enumerate(counts) if count]
    total = sum(level * count for level, count in enumerate(counts))
    return total / sum(counts) / 255, levels[0], levels[-1]


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
def open_image(file: IO[bytes], path: Path) -> Iterator[Image.Image]:
    """Open an image, and tell whatever goes wrong with it, also within the `with`, as a `DataError`."""
    try:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # for good: `catch_warnings` is not for several threads
        with Image.open(file, formats=open_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(path, f"{image.width}x{image.height}")
            yield image
    except Image.DecompressionBombError:
        raise _too_large(path, "more than 100 megapixels") from None
    except UnidentifiedImageError:
        raise _unidentified(file, path) from None
    except _BROKEN as error:
        raise corrupt(path, _one_line(error)) from error


def _too_large(path: Path, size: str) -> DataError:
    return DataError(f"image {path} is too large: {size}", hint=f"shrink it below {MAX_PIXELS // 10**6} megapixels")


def _unidentified(file: IO[bytes], path: Path) -> DataError:
    file.seek(0)
    start = file.read(64)
    if kind := foreign_kind(start):
        hint = HEIC_HINT if kind == "HEIC" else "convert it to JPEG or PNG"
        return DataError(f"image {path} is {kind}, which cannot be read", hint=hint)
    return corrupt(path, f"its content is none of {', '.join(FORMATS)}" if start else "it is empty")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _describe(image: Image.Image) -> ImageHeader:
    """Tell what an opened image says of itself; it cannot be loaded afterwards, since its frames are counted."""
    size = _upright_size(image)
    profile = read_profile(image)
    return ImageHeader(
        size=size,
        format=str(image.format),
        mode=image.mode,
        bits=_bits(image),
        has_alpha=image.has_transparency_data,
        orientation=_stored_orientation(image),
        icc=profile.name,
        profile=profile.kind,
        has_more_frames=_has_more_frames(image),
    )


def _bits(image: Image.Image) -> int:
    if image.mode in ("I", "F"):
        return 32
    if isinstance(image, ImageFile) and any(";16" in str(tile[3]) for tile in image.tile):
        return 16
    return 1 if image.mode == "1" else 16 if image.mode.startswith("I;16") else 8


def upright(image: Image.Image) -> Image.Image:
    """Load an image and turn it as EXIF says."""
    turn = _UPRIGHT.get(orientation_of(image))  # before loading: Pillow turns TIFF upright while it loads
    image.load()
    return image if turn is None else image.transpose(turn)


def _upright_size(image: Image.Image) -> Size:
    width, height = image.size
    return Size(height, width) if orientation_of(image) in _SWAPS_SIDES else Size(width, height)


def orientation_of(image: Image.Image) -> int:
    """Read the EXIF orientation that is still to be applied; 1 where there is none or it cannot be read."""
    return 1 if image.format == "TIFF" else _stored_orientation(image) or 1


def _stored_orientation(image: Image.Image) -> int:
    try:
        # PngImageFile.getexif decodes all pixels to look for metadata behind them; the base class does not.
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return 0


def _has_more_frames(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except _BROKEN:
        return False
    return True
