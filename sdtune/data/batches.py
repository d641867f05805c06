"""From a planned batch to a batch: captions, and pixels or cached latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import numpy as np
import torch

from sdtune.data.buckets.crops import crop_anywhere
from sdtune.data.buckets.placing import settle_geometry
from sdtune.data.buckets.size_numbers import describe_size
from sdtune.data.caches.latents import LatentItem
from sdtune.data.captions.captioner import Captioner
from sdtune.data.captions.treating import is_flipped
from sdtune.data.index.regularization import weight_at
from sdtune.data.pictures.masks import LossMasks
from sdtune.data.pictures.pixels import load_pixels
from sdtune.data.pictures.recolor import draw_shift, recolor
from sdtune.data.tables.lazy import Lazy
from sdtune.data.types import Batch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from sdtune.config.data import DataOptions
    from sdtune.data.buckets.size_numbers import SizeNumbers
    from sdtune.data.caches.latents import LatentCache
    from sdtune.data.index.building import DataIndex
    from sdtune.data.tables.records import ImageTable
    from sdtune.data.types import BatchPlan, Placement, Visit


class LatentItems(Lazy[LatentItem]):
    """What is asked of a latent cache: each image, and mirrored ones too; an item is made when it is asked for.

    Args:
        images: The images.
        placements: One for each.
        rows: (N,) int64: which image each item is of.
        flipped: (N,) bool: whether it is mirrored.
    """

    def __init__(
        self, images: ImageTable, placements: Sequence[Placement], rows: NDArray[np.int64], flipped: NDArray[np.bool_]
    ) -> None:
        self._images, self._placements, self._rows, self._flipped = images, placements, rows, flipped

    @classmethod
    def of(cls, images: ImageTable, placements: Sequence[Placement], mirrored: Collection[str]) -> LatentItems:
        """List all images, those of some folders on both sides."""
        sides = 1 + images.subsets.flags(lambda subset: subset.name in mirrored).astype(np.int64)
        rows = np.repeat(np.arange(len(images)), sides)
        return cls(images, placements, rows, np.diff(rows, prepend=-1) == 0)

    @overload
    def __getitem__(self, row: int) -> LatentItem: ...
    @overload
    def __getitem__(self, row: slice) -> LatentItems: ...
    def __getitem__(self, row: int | slice) -> LatentItem | LatentItems:
        """Give one item, or some."""
        if isinstance(row, slice):
            return LatentItems(self._images, self._placements, self._rows[row], self._flipped[row])
        image = int(self._rows[row])
        return LatentItem(
            record=self._images[image], placement=self._placements[image], flipped=bool(self._flipped[row])
        )

    def __len__(self) -> int:
        return len(self._rows)


class BatchBuilder:
    """Build batches; the same plan and epoch give the same batch, in any order and any process.

    Args:
        index: The data set.
        placements: One for each of its images.
        options: How it is augmented.
        seed: The run's seed.
        latents: Filled cache; None builds batches of pixels.
        captioner: Gives captions; None: as the folders' options say, and as in step 0.
        latent_factor: Pixels per latent, each way.
        epochs: Epochs of the run: how long weights that change take for it.
    """

    def __init__(
        self,
        index: DataIndex,
        placements: Sequence[Placement],
        options: DataOptions,
        seed: int,
        *,
        latents: LatentCache | None = None,
        captioner: Captioner | None = None,
        latent_factor: int = 8,
        epochs: int = 1,
    ) -> None:
        self._index = index
        self._placements = placements
        self._options = options
        self._seed = seed
        self._latents = latents
        self._captioner = captioner or Captioner(index, seed)
        self._epochs = epochs
        geometry = settle_geometry(index.subsets, options)
        self._cut_anywhere = {name for name, own in geometry.items() if own.crop == "random"}
        self._mirrored = {own.name for own in index.subsets if own.options.flip}
        uses_alpha = options.alpha_weight or any(own.options.alpha_weight for own in index.subsets)
        self._recoloured = {own.name for own in index.subsets if own.options.color}
        self._masks = LossMasks(latent_factor, options) if uses_alpha or index.images.masks.is_any() else None

    def build(self, plan: BatchPlan, epoch: int, step: int = 0) -> Batch:
        """Build one batch.

        Args:
            plan: Its visits.
            epoch: Epoch, from 0.
            step: Optimizer step, from 0.

        Raises:
            DataError: An image is damaged, gone or changed (only when latents are not cached).
            PlatformError: A cached entry is gone or damaged.
        """
        items = [self._item(visit, epoch) for visit in plan.visits]
        subsets = [item.record.subset for item in items]
        alpha = self._options.alpha_color
        pixels = posterior = None
        if self._latents is None:
            pictures = [load_pixels(item.record, item.placement, alpha, flipped=item.flipped) for item in items]
            shifted = zip(pictures, items, plan.visits, strict=True)
            pixels = torch.stack([self._recolored(picture, item, visit, epoch) for picture, item, visit in shifted])
        else:
            posterior = self._latents.get(items)
        return Batch(
            sample_ids=tuple(visit.sample_id for visit in plan.visits),
            captions=tuple(self.caption(visit, epoch, step) for visit in plan.visits),
            pixels=pixels,
            mean=posterior.mean if posterior else None,
            std=posterior.std if posterior else None,
            weights=torch.tensor([weight_at(own, epoch, self._epochs) for own in subsets], dtype=torch.float32),
            size=plan.bucket,
            sizes=torch.tensor([self._size_numbers(item) for item in items], dtype=torch.float32),
            is_regularization=tuple(own.is_regularization for own in subsets),
            mask=self._masks.get(items) if self._masks else None,
        )

    def caption(self, visit: Visit, epoch: int, step: int = 0) -> str:
        """Give a visit's caption; see `Captioner.caption`."""
        return self._captioner.caption(visit, epoch, step)

    def fixed_captions(self) -> tuple[str, ...] | None:
        """List every caption that any epoch can have; see `Captioner.fixed`."""
        return self._captioner.fixed()

    def latent_items(self) -> LatentItems:
        """List everything any epoch asks of a latent cache; twice the images when they are mirrored."""
        return LatentItems.of(self._index.images, self._placements, self._mirrored)

    def _recolored(self, pixels: Tensor, item: LatentItem, visit: Visit, epoch: int) -> Tensor:
        is_varied = item.record.subset.name in self._recoloured
        shift = draw_shift(self._seed, epoch, visit.sample_id) if is_varied else None
        return pixels if shift is None else recolor(pixels, shift)

    def _size_numbers(self, item: LatentItem) -> SizeNumbers:
        rule = self._options.size_conditioning
        return describe_size(item.record.size, item.placement, flipped=item.flipped, rule=rule)

    def _item(self, visit: Visit, epoch: int) -> LatentItem:
        record, placement = self._index.images[visit.image], self._placements[visit.image]
        if record.subset.name in self._cut_anywhere:
            placement = crop_anywhere(placement, self._seed, epoch, visit.sample_id)
        return LatentItem(
            record=record,
            placement=placement,
            flipped=record.subset.name in self._mirrored and is_flipped(self._seed, epoch, visit.sample_id),
        )
