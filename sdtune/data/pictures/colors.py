"""From the pixels of any kind of file to 8-bit sRGB."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageCms, ImageColor

from sdtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Color = tuple[int, int, int]

ProfileKind = Literal["none", "srgb", "other", "broken"]
"""`none`: no profile, taken for sRGB; `srgb`: the file's says the same; `other`: pixels are converted; `broken`: the
profile cannot be read, or is not for pixels of this kind, and is not used."""

_SAME = 2  # levels that a profile may be off sRGB: rounding of its curve, and profiles cut down to be small
_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}
_SRGB = ImageCms.createProfile("sRGB")


class Profile(NamedTuple):
    """A colour profile in a file.

    Attributes:
        name: Its own name; empty when there is none.
        kind: What becomes of it.
        transform: To sRGB, for `other`.
    """

    name: str
    kind: ProfileKind
    transform: ImageCms.ImageCmsTransform | None = None


def read_profile(image: Image.Image) -> Profile:
    """Tell what becomes of the colour profile in an open image."""
    data = image.info.get("icc_profile")
    return _profile(bytes(data), _base_mode(image.mode)) if data else Profile("", "none")


def to_rgb(image: Image.Image, background: Color, path: Path) -> NDArray[np.uint8]:
    """Bring a loaded image of any mode to sRGB, with a colour under what is transparent.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: 32-bit pixels, of which nobody says what is white.
    """
    if image.mode in ("I", "F"):
        raise DataError(f"image {path} has 32-bit pixels (mode {image.mode})", hint="save it with 8 bits per channel")
    transform = read_profile(image).transform
    if image.mode.startswith("I;16"):
        image = _from_16_bit(image)
    full = image.convert("RGBA") if image.has_transparency_data else image
    if transform is None:
        rgb = full if full.mode == "RGB" else full.convert("RGB")  # of 12 megapixels a copy takes 30 ms
    else:
        rgb = _apply(full.convert(_base_mode(image.mode)), transform)
    if full.mode == "RGBA":
        rgb.putalpha(full.getchannel("A"))
        rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, (*background, 255)), rgb).convert("RGB")
    return np.asarray(rgb)


def parse_color(color: str) -> Color:
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


def _apply(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise TypeError("applyTransform gives an image unless it works in place")
    return converted


def _base_mode(mode: str) -> str:
    """Give the mode without alpha, palette or depth in which colours of a mode are converted."""
    if mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;16"):
        return "L"
    return "CMYK" if mode == "CMYK" else "RGB"


@lru_cache(maxsize=64)
def _profile(data: bytes, mode: str) -> Profile:
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        name = " ".join(ImageCms.getProfileDescription(profile).split())
        if profile.profile.xcolor_space != _SPACES[mode]:
            return Profile(name, "broken")
        transform = ImageCms.buildTransform(profile, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC)
    except (OSError, ImageCms.PyCMSError):
        return Profile("", "broken")
    return Profile(name, "srgb") if _changes_nothing(transform, mode) else Profile(name, "other", transform)


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tell whether a transform leaves colours as they are, by those of a grid."""
    if mode == "CMYK":
        return False
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    if mode == "RGB":
        levels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(18, -1, 3)
    else:
        levels = levels[None]
    before = Image.fromarray(levels)
    after = _apply(before, transform)
    differences = np.asarray(before.convert("RGB"), dtype=int) - np.asarray(after, dtype=int)
    return int(np.abs(differences).max()) <= _SAME


def _from_16_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit gray to 8 bits, rounded; Pillow's own conversion clips at 255."""
    gray: NDArray[Any] = np.asarray(image)
    return Image.fromarray(((gray.astype(np.uint32) + 128) // 257).astype(np.uint8))
