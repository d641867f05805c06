"""What SDXL is told about a picture: size before, place of the crop, size after (Podell et al. 2023, section 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sdtune.data.types import Placement, Size

SizeRule = Literal["real", "kohya"]
SizeNumbers = tuple[int, int, int, int, int, int]


def describe_size(original: Size, placement: Placement, *, flipped: bool, rule: SizeRule = "real") -> SizeNumbers:
    """Give original height and width, top and left of the crop, height and width of the bucket, px.

    Args:
        original: Size of the image file, after EXIF rotation.
        placement: How it is resized and cut.
        flipped: It is mirrored after that: what was cut off on the right is then missing on the left.
        rule: `real`: the crop that is made; `kohya`: the one that kohya's scripts name.
    """
    if rule == "real":
        top, left = _real_crop(placement, flipped=flipped)
    else:
        top, left = _kohya_crop(original, placement.bucket, flipped=flipped)
    return original.height, original.width, top, left, placement.bucket.height, placement.bucket.width


def _real_crop(placement: Placement, *, flipped: bool) -> tuple[int, int]:
    right = placement.resized.width - placement.left - placement.bucket.width
    return placement.top, right if flipped else placement.left


def _kohya_crop(original: Size, bucket: Size, *, flipped: bool) -> tuple[int, int]:
    """Place the image inside the bucket instead of around it."""
    scale = min(bucket.width / original.width, bucket.height / original.height)
    width, height = original.width * scale, original.height * scale
    left = (bucket.width - width) // 2
    return int((bucket.height - height) // 2), int(bucket.width - left - width if flipped else left)
