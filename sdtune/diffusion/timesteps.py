"""How often a timestep is trained: shares of the timesteps, and one uniform number turned into one of them.

Letters: T timesteps of the schedule, s in (0, 1) the place of a timestep in it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor


def logit_normal_shares(count: int, mean: float, std: float) -> Tensor:
    """Give the probability that s = sigmoid(mean + std z), z standard normal, falls into each timestep: (T,) float64.

    Esser et al. 2024, section 3.1. kohya's `sigmoid` with a scale is mean 0 with that std.
    """
    edges = torch.logit(torch.linspace(0, 1, count + 1, dtype=torch.float64))
    cumulated: Tensor = torch.special.ndtr((edges - mean) / std)
    return cumulated.diff()


def sigmoid_shares(count: int, slope: float, centre: float) -> Tensor:
    """Give weights 1 / (1 + exp(-slope (s - centre))): (T,) float64; OneTrainer has this form."""
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.sigmoid(slope * (places - centre))


def listed_shares(count: int, weights: Sequence[float]) -> Tensor:
    """Spread a list over the timesteps, each entry over an equal stretch: (T,) float64."""
    places = torch.arange(count) * len(weights) // count
    return torch.tensor(weights, dtype=torch.float64)[places]


def cumulate(shares: Tensor, first: int, end: int) -> Tensor | None:
    """Sum up the shares of a range of timesteps: (end - first,) float64 rising to 1; None where all of them are 0."""
    sums = shares[first:end].cumsum(0)
    return sums / sums[-1] if sums[-1] > 0 else None


def draw_timestep(generator: Generator, first: int, end: int, cumulated: Tensor | None) -> int:
    """Draw a timestep in [first, end) by the inverse of its cumulated shares, evenly where there are none.

    One uniform u decides, and without shares the timestep is first + floor(u (end - first)): so another distribution
    moves each sample's timestep, and never changes their order.

    Args:
        generator: Its next draws are taken.
        first: First timestep.
        end: End of the range, excluded.
        cumulated: What `cumulate` gave.
    """
    even = int(torch.randint(first, end, (), generator=generator))
    if cumulated is None:
        return even
    u = (even - first + float(torch.rand((), dtype=torch.float64, generator=generator))) / (end - first)
    u = min(u, math.nextafter(1.0, 0.0))
    return first + int(torch.searchsorted(cumulated, u, right=True))


def midpoints(first: int, end: int, count: int) -> list[int]:
    """Give the middle timestep of each of `count` equal parts of [first, end)."""
    return [first + (2 * number + 1) * (end - first) // (2 * count) for number in range(count)]
