"""From an image file to the pixels the VAE sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from sdtune.config.data import settle
from sdtune.data.digests import bytes_digest
from sdtune.data.pictures.images import DEFAULT_ALPHA_COLOR, decode_alpha, decode_bytes, decode_mask, read_file
from sdtune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from sdtune.config.data import DataOptions
    from sdtune.data.types import ImageRecord, MaskFile, Placement, Size

PIXELS_VERSION = 2
"""What pixels are made of a file; part of the key of what is computed from them. 2: colours are converted to sRGB."""


def check_cacheable(options: DataOptions) -> None:
    """Refuse cached latents where a picture is another one at each visit.

    Raises:
        ConfigError: Colours or crops are drawn, in any folder, and latents are cached.
    """
    if options.cache.latents == "off":
        return
    folders = [settle(options, own) for own in options.subsets] or [options]
    drawn = {
        "data.color=true": any(own.color for own in folders),
        "data.crop=random": any(own.crop == "random" for own in folders),
    }
    if asked := [option for option, is_asked in drawn.items() if is_asked]:
        raise ConfigError(
            f"{' and '.join(asked)} would show other pixels at each visit than the latents that are cached",
            hint="set data.cache.latents=off",
        )


def load_pixels(
    record: ImageRecord, placement: Placement, alpha_color: str = DEFAULT_ALPHA_COLOR, *, flipped: bool = False
) -> Tensor:
    """Decode, resize, crop and, if asked, mirror an image.

    Shrinking on both sides uses the area (box) filter, anything else Lanczos.

    Returns:
        (3, H, W) float32 in [-1, 1].

    Raises:
        DataError: The file is gone, damaged, or not the one that was indexed.
    """
    picture = Image.fromarray(decode_bytes(_read_indexed(record.path, record.digest), record.path, alpha_color))
    cropped = _resize(picture, placement.resized).crop(_crop_box(placement))
    pixels = np.array(cropped, dtype=np.float32) / np.float32(127.5) - np.float32(1)
    upright = pixels[:, ::-1] if flipped else pixels
    return torch.from_numpy(np.ascontiguousarray(upright.transpose(2, 0, 1)))


def load_alpha(
    record: ImageRecord, placement: Placement, latent_factor: int, *, flipped: bool = False
) -> NDArray[np.float32]:
    """Decode an image's alpha channel, placed as its pixels are, then averaged over each latent's square.

    Returns:
        (h, w) float32 in [0, 255]; 255 where the image has no alpha channel.

    Raises:
        DataError: As `load_pixels`.
    """
    alpha = decode_alpha(_read_indexed(record.path, record.digest), record.path)
    return _at_latent_size(alpha, placement, latent_factor, flipped=flipped)


def load_mask(
    mask: MaskFile, placement: Placement, latent_factor: int, *, flipped: bool = False
) -> NDArray[np.float32]:
    """Decode a mask, placed as its image's pixels are, then averaged over each latent's square.

    Returns:
        (h, w) float32 in [0, 255].

    Raises:
        DataError: As `load_pixels`.
    """
    brightness = decode_mask(_read_indexed(mask.path, mask.digest), mask.path)
    return _at_latent_size(brightness, placement, latent_factor, flipped=flipped)


def _at_latent_size(
    values: NDArray[np.uint8], placement: Placement, latent_factor: int, *, flipped: bool
) -> NDArray[np.float32]:
    cropped = _resize(Image.fromarray(values), placement.resized).crop(_crop_box(placement)).convert("F")
    size = (placement.bucket.width // latent_factor, placement.bucket.height // latent_factor)
    small = np.array(cropped.resize(size, Image.Resampling.BOX))
    return np.ascontiguousarray(small[:, ::-1]) if flipped else small


def _read_indexed(path: Path, digest: str) -> bytes:
    data = read_file(path)
    if bytes_digest(data) != digest:
        raise DataError(f"image {path} changed since the data set was read", hint="start again")
    return data


def _resize(picture: Image.Image, size: Size) -> Image.Image:
    shrinks = size.width < picture.width and size.height < picture.height
    return picture.resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS)


def _crop_box(placement: Placement) -> tuple[int, int, int, int]:
    left, top = placement.left, placement.top
    return left, top, left + placement.bucket.width, top + placement.bucket.height
