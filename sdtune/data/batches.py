"""From a planned batch to a batch: captions, and pixels or cached latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.data.cache import LatentItem
from sdtune.data.captions import drops_caption, is_flipped, shuffle_tags
from sdtune.data.pixels import load_pixels
from sdtune.data.regularization import weight_at
from sdtune.data.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.config.schema import DataOptions
    from sdtune.data.cache import LatentCache
    from sdtune.data.index import DataIndex
    from sdtune.data.types import BatchPlan, Placement, Subset, Visit

    CaptionHook = Callable[[str, Subset], str]


def keep_caption(text: str, subset: Subset) -> str:
    """Leave a caption as it is: the caption hook of a method that has none of its own."""
    return text


class BatchBuilder:
    """Build batches; the same plan and epoch give the same batch, in any order and any process.

    Args:
        index: The data set.
        placements: One for each of its images.
        options: How it is augmented.
        seed: The run's seed.
        latents: Filled cache; None builds batches of pixels.
        method_caption: The method's treatment of captions, e.g. `Method.caption`; regularization keeps its own.
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
        method_caption: CaptionHook = keep_caption,
        epochs: int = 1,
    ) -> None:
        self._index = index
        self._placements = placements
        self._options = options
        self._seed = seed
        self._latents = latents
        self._hook = method_caption
        self._epochs = epochs

    def build(self, plan: BatchPlan, epoch: int) -> Batch:
        """Build one batch.

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
            pixels = torch.stack(pictures)
        else:
            posterior = self._latents.get(items)
        return Batch(
            sample_ids=tuple(visit.sample_id for visit in plan.visits),
            captions=tuple(self.caption(visit, epoch) for visit in plan.visits),
            pixels=pixels,
            mean=posterior.mean if posterior else None,
            std=posterior.std if posterior else None,
            weights=torch.tensor([weight_at(own, epoch, self._epochs) for own in subsets], dtype=torch.float32),
            size=plan.bucket,
            is_regularization=tuple(own.is_regularization for own in subsets),
        )

    def caption(self, visit: Visit, epoch: int) -> str:
        """Give a visit's caption: tags shuffled, then treated by the method, then dropped.

        The method comes after the shuffle, so that words it puts in stay together, and before the drop, so that a
        dropped caption is empty for every method.
        """
        options, draw = self._options, (self._seed, epoch, visit.sample_id)
        if drops_caption(options.caption_dropout, *draw):
            return ""
        record = self._index.images[visit.image]
        text = shuffle_tags(record.caption, options.keep_tags, *draw) if options.shuffle_tags else record.caption
        return self._method_caption(text, record.subset)

    def fixed_captions(self) -> tuple[str, ...] | None:
        """List every caption that any epoch can have, once each; None when tags are shuffled."""
        if self._options.shuffle_tags:
            return None
        captions = [self._method_caption(record.caption, record.subset) for record in self._index.images]
        return tuple(dict.fromkeys(captions + [""] * (self._options.caption_dropout > 0)))

    def latent_items(self) -> tuple[LatentItem, ...]:
        """List everything any epoch asks of a latent cache; twice the images when they are mirrored."""
        pairs = list(zip(self._index.images, self._placements, strict=True))
        sides = (False, True) if self._options.flip else (False,)
        return tuple(
            LatentItem(record=record, placement=placement, flipped=flipped)
            for record, placement in pairs
            for flipped in sides
        )

    def _method_caption(self, text: str, subset: Subset) -> str:
        return text if subset.is_regularization else self._hook(text, subset)

    def _item(self, visit: Visit, epoch: int) -> LatentItem:
        return LatentItem(
            record=self._index.images[visit.image],
            placement=self._placements[visit.image],
            flipped=self._options.flip and is_flipped(self._seed, epoch, visit.sample_id),
        )
