"""What can be seen of a single picture, in one decode: for the doctor, and kept by content digest."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from sdtune.data.check.fingerprints import fingerprint, near_duplicates
from sdtune.data.check.sharpness import falloff, sharpness
from sdtune.data.check.surface import borders, jpeg_quality, spread
from sdtune.data.pictures.colors import to_rgb
from sdtune.data.pictures.images import describe_bytes, open_image, read_file, upright
from sdtune.errors import DataError

if TYPE_CHECKING:
    from sdtune.data.pictures.images import ImageHeader

__all__ = ["PictureFacts", "examine", "near_duplicates"]

LOOKED_AT_PX = 1024
"""Detail above what any model is trained at is not looked at: larger pictures are halved until the shorter side is
below twice this."""
SMALL_PX = 512
"""Shorter side of what all but the fine detail is judged by."""
BLURRED_BELOW = 0.12
ENLARGED_ABOVE = 1.65
BLANK_BELOW = 2.5
POOR_QUALITY_BELOW = 50

_REDUCIBLE = frozenset({"L", "LA", "RGB", "RGBA", "CMYK"})
_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFacts:
    """What can be seen of a picture. Of a file that cannot be read only `error` says anything.

    Attributes:
        error: Why it cannot be read, one line; empty when it can.
        remedy: What to do about that.
        format: Pillow's name of the format found in the content, e.g. `JPEG`.
        width: Width in px, after EXIF rotation.
        height: Height in px, after EXIF rotation.
        mode: Pillow's mode before any conversion, e.g. `CMYK`.
        bits: Bits of each channel.
        orientation: EXIF orientation; 1: as stored.
        icc: Name of the colour profile in the file; empty when there is none.
        profile: What becomes of it: `none`, `srgb`, `other` (colours are converted), `broken` (it is not used).
        has_more_frames: Animated, or several pages.
        transparent: Share of the picture that is transparent, 0 to 1.
        quality: Estimated quality of JPEG, 1 to 100; None for other formats.
        sharpness: How steep the steepest edges are at a fixed size, 0 to 1; `BLURRED_BELOW` and less is blurred.
        falloff: Decades of power lost over the octave with the steepest loss; above `ENLARGED_ABOVE` detail is missing
            that the size promises.
        falloff_scale: How often the picture is larger than its detail, roughly.
        spread: Standard deviation of brightness, 0 to 128.
        borders: Share of the picture that is an even frame: left, top, right, bottom.
        fingerprint: Perceptual hashes for `near_duplicates`.
    """

    error: str = ""
    remedy: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    bits: int = 8
    orientation: int = 1
    icc: str = ""
    profile: str = "none"
    has_more_frames: bool = False
    transparent: float = 0.0
    quality: int | None = None
    sharpness: float = 1.0
    falloff: float = 0.0
    falloff_scale: float = 1.0
    spread: float = 128.0
    borders: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    fingerprint: str = ""

    @property
    def is_blank(self) -> bool:
        """Of one colour, as good as."""
        return not self.error and self.spread < BLANK_BELOW

    @property
    def is_blurred(self) -> bool:
        """No edge in it is sharp, even at 512 px."""
        return not self.error and not self.is_blank and self.sharpness < BLURRED_BELOW

    @property
    def is_enlarged(self) -> bool:
        """It has the size, and not the detail: enlarged, or softened by a filter."""
        return not self.error and not self.is_blank and self.falloff > ENLARGED_ABOVE

    @property
    def has_frame(self) -> bool:
        """Even stripes lie along two opposite sides, as when a film is letterboxed."""
        left, top, right, bottom = self.borders
        return not self.is_blank and (min(left, right) > 0 or min(top, bottom) > 0)

    @property
    def is_poor_jpeg(self) -> bool:
        """Compressed so much that blocks may be learned."""
        return self.quality is not None and self.quality < POOR_QUALITY_BELOW

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Take what `to_dict` gave, also after JSON.

        Raises:
            TypeError: Other names, as of another version.
        """
        return cls(**{**values, "borders": tuple(values.get("borders", ()))})


def examine(source: Path | bytes) -> PictureFacts:
    """Look at a picture, decoding it once and no larger than needed: 45 ms for a JPEG of 12 megapixels.

    Args:
        source: An image file, or its bytes.

    Returns:
        What was found; a file that cannot be read has `error` set, and nothing is raised.
    """
    path = source if isinstance(source, Path) else Path("picture")
    try:
        data = read_file(source) if isinstance(source, Path) else source
        header = describe_bytes(data, path)
        with open_image(BytesIO(data), path) as image:
            quality = jpeg_quality(image)
            luminance, transparent = _look(image, path)
    except DataError as error:
        problem = error.problems[0]
        return PictureFacts(error=problem.message, remedy=problem.hint)
    return _facts(header, quality, luminance, transparent)


def _look(image: Image.Image, path: Path) -> tuple[Image.Image, float]:
    """Decode to upright brightness, reduced; and the share that is transparent."""
    if isinstance(image, JpegImageFile):
        image.draft("L", _at_least(image.size))
    turned = upright(image)
    transparent = 0.0
    if turned.has_transparency_data:
        alpha = turned.convert("RGBA").getchannel("A")
        transparent = 1 - sum(value * count for value, count in enumerate(alpha.histogram())) / (
            255 * alpha.width * alpha.height
        )
    factor = min(turned.size) // LOOKED_AT_PX
    if factor > 1 and turned.mode in _REDUCIBLE:
        turned = turned.reduce(factor)
    if turned.mode != "L" or turned.has_transparency_data:
        turned = Image.fromarray(to_rgb(turned, _WHITE, path)).convert("L")
    factor = min(turned.size) // LOOKED_AT_PX
    return (turned.reduce(factor) if factor > 1 else turned), transparent


def _at_least(size: tuple[int, int]) -> tuple[int, int]:
    """Give the smallest size of the same shape whose shorter side is still looked at in full."""
    scale = min(1.0, LOOKED_AT_PX / min(size))
    return math.floor(size[0] * scale), math.floor(size[1] * scale)


def _shrink(luminance: Image.Image) -> Image.Image:
    factor = min(1.0, SMALL_PX / min(luminance.size))
    size = max(1, round(luminance.width * factor)), max(1, round(luminance.height * factor))
    return luminance.resize(size, Image.Resampling.BOX) if factor < 1 else luminance


def _facts(header: ImageHeader, quality: int | None, luminance: Image.Image, transparent: float) -> PictureFacts:
    loss, scale = falloff(luminance)
    small = _shrink(luminance)
    return PictureFacts(
        format=header.format,
        width=header.size.width,
        height=header.size.height,
        mode=header.mode,
        bits=header.bits,
        orientation=header.orientation,
        icc=header.icc,
        profile=header.profile,
        has_more_frames=header.has_more_frames,
        transparent=round(transparent, 4),
        quality=quality,
        sharpness=round(sharpness(small), 4),
        falloff=round(loss, 3),
        falloff_scale=round(scale * min(header.size) / min(luminance.size), 1),
        spread=round(spread(small), 2),
        borders=borders(small),
        fingerprint=fingerprint(small),
    )
