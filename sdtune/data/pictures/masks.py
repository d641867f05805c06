"""Where in a picture the loss counts: by a mask in a file or by its transparency, at the size of the latents."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from sdtune.data.pictures.pixels import load_alpha, load_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sdtune.config.data import DataOptions
    from sdtune.data.caches.latents import LatentItem

_KEPT = 2048
_WHITE = 255


class LossMasks:
    """Weights over pictures; those of the last few thousand are kept in memory, 128 MiB at 1024 px.

    Each folder's own options count, and for regularization images those of all.

    Args:
        latent_factor: Pixels per latent, each way.
        options: What is made of masks, and whether a picture without a mask file is weighted by its transparency.
    """

    def __init__(self, latent_factor: int, options: DataOptions) -> None:
        self._factor = latent_factor
        self._options = options
        self._mask = lru_cache(maxsize=_KEPT)(self._make)

    def get(self, items: Sequence[LatentItem]) -> Tensor:
        """Give the weights of items of one bucket: (B, 1, h, w) float32.

        Raises:
            DataError: An image is damaged, gone or changed.
        """
        return torch.stack([self._mask(item) for item in items])

    def _make(self, item: LatentItem) -> Tensor:
        return torch.from_numpy(self._weights(item))[None]

    def _weights(self, item: LatentItem) -> NDArray[np.float32]:
        record, placement, subset = item.record, item.placement, item.record.subset
        options = self._options if subset.is_regularization else subset.options
        if record.mask is not None:
            mask = load_mask(record.mask, placement, self._factor, flipped=item.flipped)
        elif options.alpha_weight:
            mask = load_alpha(record, placement, self._factor, flipped=item.flipped)
        else:
            shape = placement.bucket.height // self._factor, placement.bucket.width // self._factor
            return np.ones(shape, dtype=np.float32)
        make = normalise_mask if options.mask.normalise else scale_mask
        return make(mask, options.mask.unmasked_weight)


def normalise_mask(mask: NDArray[np.float32], unmasked_weight: float = 0.0) -> NDArray[np.float32]:
    """Give m / mean(m) with m = u + (1 - u)(mask - min): webui's weight of alpha where u is 0.

    A mask that is the same everywhere gives 1 everywhere, where webui divides 0 by 0.

    Args:
        mask: (h, w) in [0, 255].
        unmasked_weight: u in [0, 1]: how much counts what is black, against what is white.
    """
    above = mask - mask.min()
    if not above.any():
        return np.ones_like(mask)
    if unmasked_weight:
        above = np.float32(_WHITE * unmasked_weight) + np.float32(1 - unmasked_weight) * above
    weights: NDArray[np.float32] = (above / above.mean(dtype=np.float64)).astype(np.float32)
    return weights


def scale_mask(mask: NDArray[np.float32], unmasked_weight: float = 0.0) -> NDArray[np.float32]:
    """Give u + (1 - u) mask / 255, as kohya's scripts weight the loss where u is 0: the mean is the mask's own.

    Args:
        mask: (h, w) in [0, 255].
        unmasked_weight: u in [0, 1].
    """
    return (unmasked_weight + (1 - unmasked_weight) * mask.astype(np.float64) / _WHITE).astype(np.float32)
