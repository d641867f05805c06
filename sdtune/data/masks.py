"""Where in a picture the loss counts: its transparency, at the size of the latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from sdtune.data.pixels import load_alpha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sdtune.data.cache import LatentItem


class AlphaMasks:
    """Weights from alpha channels, computed once for each picture and kept in memory.

    Args:
        latent_factor: Pixels per latent, each way.
    """

    def __init__(self, latent_factor: int) -> None:
        self._factor = latent_factor
        self._known: dict[LatentItem, Tensor] = {}

    def get(self, items: Sequence[LatentItem]) -> Tensor:
        """Give the weights of items of one bucket: (B, 1, h, w) float32, each of mean 1.

        Raises:
            DataError: An image is damaged, gone or changed.
        """
        return torch.stack([self._mask(item) for item in items])

    def _mask(self, item: LatentItem) -> Tensor:
        if item not in self._known:
            alpha = load_alpha(item.record, item.placement, self._factor, flipped=item.flipped)
            self._known[item] = torch.from_numpy(normalise_alpha(alpha))[None]
        return self._known[item]


def normalise_alpha(alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Give (a - min) / mean(a - min), as webui weights the loss; 1 everywhere for an alpha that is the same everywhere.

    Args:
        alpha: (h, w), of any scale.
    """
    above = alpha - alpha.min()
    mean = above.mean(dtype=np.float64)
    return np.ones_like(alpha) if mean == 0 else (above / mean).astype(np.float32)
