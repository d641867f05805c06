"""Plain looks at a picture: how even it is, whether it has a frame, how much it was compressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_EVEN = 4.0  # standard deviation and drift of a line of one colour, with what JPEG adds
_STEP = 12.0  # brightness by which the picture behind a frame differs from it
_MOST_OF_LINE = 0.6
_LEAST_SHARE = 0.02
_LUMINANCE_SUM = 3699  # of the standard's example table, ITU-T T.81 annex K.1


def spread(small: Image.Image) -> float:
    """Give the standard deviation of brightness."""
    return float(np.asarray(small, dtype=np.float32).std())


def borders(small: Image.Image) -> tuple[float, float, float, float]:
    """Measure even stripes along the sides that end at once over most of their length, as a frame does.

    A plain background ends where the subject begins, here earlier and there later, and is no frame.

    Returns:
        Shares of width or height: left, top, right, bottom; 0 where there is none.
    """
    rows = np.asarray(small, dtype=np.float32)
    columns = rows.T
    return _stripe(columns), _stripe(rows), _stripe(columns[::-1]), _stripe(rows[::-1])


def jpeg_quality(image: Image.Image) -> int | None:
    """Estimate the quality a JPEG was saved with from its table for brightness, by libjpeg's scale; None for others."""
    if not isinstance(image, JpegImageFile) or 0 not in image.quantization:
        return None
    scale = 100 * sum(image.quantization[0]) / _LUMINANCE_SUM
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return int(np.clip(round(quality), 1, 100))


def _stripe(lines: NDArray[np.float32]) -> float:
    """Give the share of lines, from the first on, that are of one colour."""
    is_even = (lines.std(axis=1) < _EVEN) & (np.abs(lines.mean(axis=1) - lines[0].mean()) < _EVEN)
    count = len(lines) if is_even.all() else int(np.argmin(is_even))
    if not _LEAST_SHARE * len(lines) <= count < len(lines) // 2:
        return 0.0
    behind = lines[min(count + 2, len(lines) - 1)]  # the line between may hold a little of both
    differs = np.abs(behind - lines[:count].mean()) > _STEP
    return round(count / len(lines), 4) if differs.mean() > _MOST_OF_LINE else 0.0
