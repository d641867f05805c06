"""Small changes of colour, drawn for each visit (`data.color`)."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

SHARE = 1 / 3
"""Of visits that are changed."""
MOST_HUE_DEGREES = 8.0
MOST_GAMMA = 0.05

# Brightness, and two colour differences (NTSC's YIQ), of R'G'B'. Turning the differences keeps gray gray.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], dtype=torch.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorShift:
    """One change of colour.

    Attributes:
        hue_degrees: How far hues are turned; brightness stays.
        gamma: Exponent on values in [0, 1].
    """

    hue_degrees: float = 0.0
    gamma: float = 1.0


def draw_shift(seed: int, epoch: int, sample_id: str) -> ColorShift | None:
    """Draw a visit's change of hue or of gamma; None for two thirds of all visits."""
    draws = random.Random(derive_seed(seed, "color", epoch, sample_id))
    if draws.random() >= SHARE:
        return None
    if draws.random() < 0.5:
        return ColorShift(hue_degrees=draws.uniform(-MOST_HUE_DEGREES, MOST_HUE_DEGREES))
    return ColorShift(gamma=draws.uniform(1 - MOST_GAMMA, 1 + MOST_GAMMA))


def recolor(pixels: Tensor, shift: ColorShift) -> Tensor:
    """Change the colours of a picture.

    Args:
        pixels: (3, H, W) float32 sRGB in [-1, 1], in the order R, G, B.
        shift: What to do.

    Returns:
        The same shape and range.
    """
    values = (pixels + 1) / 2
    if shift.hue_degrees:
        values = torch.einsum("ij,jhw->ihw", _hue_matrix(shift.hue_degrees), values)
    return values.clamp(0, 1).pow(shift.gamma) * 2 - 1


def _hue_matrix(degrees: float) -> Tensor:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=torch.float64)
    matrix: Tensor = torch.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ
    return matrix.float()
