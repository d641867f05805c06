"""From a planned batch to a batch: captions, and pixels or cached latents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.data.cache import LatentItem
from sdtune.data.captions import choose_form, drop_tags, drops_caption, is_flipped, shuffle_tags
from sdtune.data.masks import LossMasks
from sdtune.data.pixels import load_pixels
from sdtune.data.recolor import draw_shift, recolor
from sdtune.data.regularization import weight_at
from sdtune.data.sizes import describe_size
from sdtune.data.types import Batch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from sdtune.config.data import DataOptions
    from sdtune.data.cache import LatentCache
    from sdtune.data.index import DataIndex
    from sdtune.data.sizes import SizeNumbers
    from sdtune.data.types import BatchPlan, Placement, Subset, Visit

    CaptionHook = Callable[[str, Subset], Sequence[str]]


def keep_caption(text: str, subset: Subset) -> tuple[str]:
    """Leave a caption as it is: the caption hook of a method that has none of its own."""
    return (text,)


class BatchBuilder:
    """Build batches; the same plan and epoch give the same batch, in any order and any process.

    Args:
        index: The data set.
        placements: One for each of its images.
        options: How it is augmented.
        seed: The run's seed.
        latents: Filled cache; None builds batches of pixels.
        method_captions: The method's treatment of captions, e.g. `Method.captions`; regularization keeps its own.
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
        method_captions: CaptionHook = keep_caption,
        latent_factor: int = 8,
        epochs: int = 1,
    ) -> None:
        self._index = index
        self._placements = placements
        self._options = options
        self._seed = seed
        self._latents = latents
        self._hook = method_captions
        self._epochs = epochs
        uses_alpha = options.alpha_weight or any(subset.options.alpha_weight for subset in index.subsets)
        has_masks = uses_alpha or any(record.mask is not None for record in index.images)
        self._masks = LossMasks(latent_factor, options) if has_masks else None

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
            shifted = zip(pictures, items, plan.visits, strict=True)
            pixels = torch.stack([self._recolored(picture, item, visit, epoch) for picture, item, visit in shifted])
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
            sizes=torch.tensor([self._size_numbers(item) for item in items], dtype=torch.float32),
            is_regularization=tuple(own.is_regularization for own in subsets),
            mask=self._masks.get(items) if self._masks else None,
        )

    def caption(self, visit: Visit, epoch: int) -> str:
        """Give a visit's caption: tags dropped and shuffled, then treated by the method, then dropped as a whole.

        The method comes after the shuffle, so that words it puts in stay together, and before the drop, so that a
        dropped caption is empty for every method.
        """
        options, draw = self._options, (self._seed, epoch, visit.sample_id)
        if drops_caption(options.caption_dropout, *draw):
            return ""
        record = self._index.images[visit.image]
        text = drop_tags(record.caption, options.keep_tags, options.tag_dropout, *draw)
        text = shuffle_tags(text, options.keep_tags, *draw) if options.shuffle_tags else text
        return choose_form(self._method_captions(text, record.subset), *draw)

    def fixed_captions(self) -> tuple[str, ...] | None:
        """List every caption that any epoch can have, once each; None when tags are shuffled or dropped."""
        if self._options.shuffle_tags or self._options.tag_dropout:
            return None
        captions = [
            form for record in self._index.images for form in self._method_captions(record.caption, record.subset)
        ]
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

    def _recolored(self, pixels: Tensor, item: LatentItem, visit: Visit, epoch: int) -> Tensor:
        shift = draw_shift(self._seed, epoch, visit.sample_id) if item.record.subset.options.color else None
        return pixels if shift is None else recolor(pixels, shift)

    def _method_captions(self, text: str, subset: Subset) -> Sequence[str]:
        return (text,) if subset.is_regularization else self._hook(text, subset)

    def _size_numbers(self, item: LatentItem) -> SizeNumbers:
        rule = self._options.size_conditioning
        return describe_size(item.record.size, item.placement, flipped=item.flipped, rule=rule)

    def _item(self, visit: Visit, epoch: int) -> LatentItem:
        return LatentItem(
            record=self._index.images[visit.image],
            placement=self._placements[visit.image],
            flipped=self._options.flip and is_flipped(self._seed, epoch, visit.sample_id),
        )
