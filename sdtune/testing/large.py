"""Large data sets that are not there: tables of made-up images, taken through everything before the first batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdtune.config.data import DataOptions
from sdtune.config.validation import ValidationOptions
from sdtune.data.batches import BatchBuilder
from sdtune.data.buckets.placing import place_images
from sdtune.data.index.building import DataIndex, digest_images
from sdtune.data.index.split import hold_out
from sdtune.data.order.plan import plan_epoch
from sdtune.data.tables.blobs import PathColumn, TextColumn
from sdtune.data.tables.columns import ChoiceColumn, DigestColumn, SizeColumn
from sdtune.data.tables.records import ImageTable, MaskColumn, PlacementTable
from sdtune.data.types import Subset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.data.types import BatchPlan

_OPTIONS = DataOptions(resolution="512", flip=True)
_CAPTION = "a photo of zwx dog number {}, sitting on the grass in front of a house, sunny day, detailed fur, {} colours"


def make_index(count: int, folders: int = 10) -> DataIndex:
    """Make the index of `count` images in some folders, each with a caption and a content of its own."""
    draws = np.random.default_rng(0)
    subsets = [
        Subset(
            name=f"1_dog{number}",
            path=Path(f"/data/large/1_dog{number}"),
            repeats=1,
            class_text="dog",
            weight=1.0,
            caption_source="txt",
            options=_OPTIONS,
        )
        for number in range(folders)
    ]
    numbers = np.sort(draws.integers(0, folders, count)).astype(np.int32)
    files = TextColumn.of(f"{number:09d}.jpg" for number in range(count))
    images = ImageTable(
        {
            "path": PathColumn(ChoiceColumn([subset.path for subset in subsets], numbers), files),
            "name": TextColumn.of(
                f"{subsets[own].name}/{file}" for own, file in zip(numbers.tolist(), files, strict=True)
            ),
            "size": SizeColumn(draws.integers(400, 2000, (count, 2), dtype=np.int32)),
            "digest": DigestColumn(draws.integers(0, 256, (count, 16), dtype=np.uint8)),
            "caption": TextColumn.of(_CAPTION.format(number, number % 97) for number in range(count)),
            "subset": ChoiceColumn(subsets, numbers),
            "mask": MaskColumn(np.full(count, -1, np.int32), MaskColumn.kind.of([])),
        }
    )
    return DataIndex(subsets=tuple(subsets), images=images, notes=(), digest=digest_images(images))


def go_through(index: DataIndex, batch_size: int = 4) -> tuple[PlacementTable, Sequence[BatchPlan]]:
    """Take an index through split, placement, plan and captions, as a run does before its first step."""
    options = _OPTIONS
    rest, _ = hold_out(index, options, ValidationOptions(split=0.01, most_images=100))
    placements = PlacementTable.of(place_images(rest.images, options))
    batches = plan_epoch(0, 0, rest.images, placements, batch_size)
    builder = BatchBuilder(rest, placements, options, 0)
    items = builder.latent_items()
    assert len(items) == 2 * len(rest.images) == 2 * sum(len(batch.visits) for batch in batches)
    assert builder.caption(batches[-1].visits[0], 0)
    return placements, batches
