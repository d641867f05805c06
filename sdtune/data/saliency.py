"""Where in a picture something is to be seen: edges, texture, and colours unlike the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

LOOKED_AT_PX = 128
_TEXTURE_RADIUS_PX, _COLOR_RADIUS_PX = 4, 2


def saliency(picture: NDArray[np.uint8]) -> Plane:
    """Weigh each place of a picture by how much it draws the eye.

    Three measures, each against its own mean: the slope of brightness, its deviation within a small window, and the
    distance of the colour from the picture's mean colour (Achanta et al. 2009). What is below the mean of all weighs
    nothing. Beyond its border a picture goes on as it is there, so the border itself is no edge.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (h, w) float64, 0 or more, of sides of at most 128; zeros where the picture is alike everywhere.
    """
    red, green, blue = np.moveaxis(_shrink(picture).astype(np.float64) / 255, -1, 0)
    light, red_green, yellow_blue = (red + green + blue) / 3, red - green, (red + green) / 2 - blue
    slope = np.hypot(_slope(light), _slope(light.T).T)
    texture = np.sqrt(np.maximum(_blur(light**2, _TEXTURE_RADIUS_PX) - _blur(light, _TEXTURE_RADIUS_PX) ** 2, 0))
    planes = (light, red_green, yellow_blue)
    color = np.sqrt(sum((_blur(plane, _COLOR_RADIUS_PX) - plane.mean()) ** 2 for plane in planes))
    weights: Plane = sum((it / it.mean() for it in (slope, texture, color) if it.mean() > 1e-6), np.zeros_like(light))
    return np.maximum(weights - weights.mean(), 0)


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = min(1.0, LOOKED_AT_PX / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _slope(plane: Plane) -> Plane:
    """Give the slope downwards."""
    slope: Plane = np.gradient(plane, axis=0)
    return slope


def _blur(plane: Plane, radius: int) -> Plane:
    """Average over squares of side 2 radius + 1."""
    padded = np.pad(plane, radius, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
    blurred: Plane = windows.mean(axis=(2, 3))
    return blurred
