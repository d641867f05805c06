"""Where in a picture something is to be seen: detail, in colours unlike the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Plane = NDArray[np.float64]

LOOKED_AT_PX = 64
BORDER_WEIGHT = 0.75
_DETAIL_RADIUS_PX, _COLOR_RADIUS_PX = 2, 1


def saliency(picture: NDArray[np.uint8]) -> Plane:
    """Weigh each place of a picture by how much it draws the eye.

    The distance of a place's colour from the picture's mean colour (Achanta et al. 2009), times the root of the slopes
    of colour around it, a little less towards the border. What is below the mean weighs nothing. A picture goes on
    beyond its border as it is there, so the border itself is no edge.

    Args:
        picture: (H, W, 3) uint8.

    Returns:
        (h, w) float64, 0 or more, of sides of at most 64; zeros where the picture is alike everywhere.
    """
    red, green, blue = np.moveaxis(_shrink(picture).astype(np.float64) / 255, -1, 0)
    light, red_green, yellow_blue = (red + green + blue) / 3, red - green, (red + green) / 2 - blue
    planes = (light, red_green, yellow_blue)
    color = np.sqrt(sum((_blur(plane, _COLOR_RADIUS_PX) - plane.mean()) ** 2 for plane in planes))
    slopes = np.sqrt(sum(slope**2 for plane in planes for slope in np.gradient(plane)))
    detail = _blur(slopes, _DETAIL_RADIUS_PX)
    weights: Plane = np.sqrt(detail) * color * _less_at_border(*light.shape)
    above: Plane = np.maximum(weights - weights.mean(), 0)
    return above


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = min(1.0, LOOKED_AT_PX / max(height, width))
    size = max(2, round(width * scale)), max(2, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))


def _blur(plane: Plane, radius: int) -> Plane:
    """Average over squares of side 2 radius + 1."""
    return _average(_average(plane, radius).T, radius).T


def _average(plane: Plane, radius: int) -> Plane:
    padded = np.pad(plane, ((radius + 1, radius), (0, 0)), mode="edge")
    below = np.cumsum(padded, axis=0)
    averaged: Plane = (below[2 * radius + 1 :] - below[: -2 * radius - 1]) / (2 * radius + 1)
    return averaged


def _less_at_border(height: int, width: int) -> Plane:
    fall = 1 - BORDER_WEIGHT
    down, across = (1 - fall * np.linspace(-1, 1, count) ** 2 for count in (height, width))
    weights: Plane = np.outer(down, across)
    return weights
