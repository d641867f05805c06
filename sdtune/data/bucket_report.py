"""What buckets cost: pixels that are cut away, enlarged or missing, and batches that are never full."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sdtune.data.bucket_rules import target_area
from sdtune.data.buckets import LOW_AREA_SHARE, crop_share, enlargement, settle_geometry
from sdtune.data.listing import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.config.data import DataOptions
    from sdtune.data.types import ImageRecord, Placement, Size

    Flaw = Literal["low-area", "enlarged", "heavy-crop"]

MOST_ENLARGEMENT = 1.5
MOST_CROP_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCost:
    """What its placement does to one image.

    Attributes:
        record: The image.
        placement: How it is placed.
        options: Options by which it is.
    """

    record: ImageRecord
    placement: Placement
    options: DataOptions

    @property
    def scale(self) -> float:
        """Factor by which its sides grow; below 1 it shrinks."""
        return enlargement(self.record.size, self.placement)

    @property
    def crop(self) -> float:
        """Share of it that is cut away, in [0, 1)."""
        return crop_share(self.placement)

    @property
    def lost_px(self) -> int:
        """Pixels of the file that are cut away."""
        return round(self.crop * math.prod(self.record.size))

    @property
    def area(self) -> float:
        """The bucket's area against the one that is meant."""
        return math.prod(self.placement.bucket) / target_area(self.options)

    @property
    def flaws(self) -> tuple[Flaw, ...]:
        """What is wrong: below 0.8 of the area, enlarged more than 1.5 times, more than a quarter cut away."""
        wrong: dict[Flaw, bool] = {
            "low-area": self.area < LOW_AREA_SHARE,
            "enlarged": self.scale > MOST_ENLARGEMENT,
            "heavy-crop": self.crop > MOST_CROP_SHARE,
        }
        return tuple(flaw for flaw, is_so in wrong.items() if is_so)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketCost:
    """What one bucket holds.

    Attributes:
        size: Its size.
        images: Images in it.
        visits: Their visits in an epoch.
        batch_size: Images in a batch.
    """

    size: Size
    images: int
    visits: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Batches of an epoch; the last one may not be full."""
        return -(-self.visits // self.batch_size)

    @property
    def is_starving(self) -> bool:
        """Whether an epoch has not one full batch of it."""
        return self.visits < self.batch_size


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketReport:
    """What the buckets cost.

    Attributes:
        buckets: Each bucket, by size; twice where folders of one have batches of different sizes.
        images: Each image, in the order of the data set.
    """

    buckets: tuple[BucketCost, ...]
    images: tuple[ImageCost, ...]

    @property
    def crop(self) -> float:
        """Share of all pixels, as they are resized, that is cut away."""
        kept = sum(math.prod(cost.placement.bucket) for cost in self.images)
        return 1 - kept / sum(math.prod(cost.placement.resized) for cost in self.images)

    def notes(self) -> list[str]:
        """Tell what is wrong, one line for each kind of flaw, with the worst of it."""
        starving = [f"{it.size} ({it.visits} of {it.batch_size})" for it in self.buckets if it.is_starving]
        notes = [
            f"{_count(starving, 'bucket')} with fewer visits an epoch than a batch holds: {shorten(starving)}"
        ] * bool(starving)
        if low := self._worst_first("low-area", lambda cost: cost.area):
            notes.append(
                f"{_count(low, 'image')} in buckets below {LOW_AREA_SHARE:.0%} of the area that is meant, least "
                f"{low[0].area:.0%}: {low[0].record.name} in {low[0].placement.bucket}"
            )
        if grown := self._worst_first("enlarged", lambda cost: -cost.scale):
            notes.append(
                f"{_count(grown, 'image')} enlarged more than {MOST_ENLARGEMENT:g} times, most "
                f"{grown[0].scale:.1f} times: {grown[0].record.name}"
            )
        if cut := self._worst_first("heavy-crop", lambda cost: -cost.crop):
            notes.append(
                f"{_count(cut, 'image')} of which more than {MOST_CROP_SHARE:.0%} is cut away, most "
                f"{cut[0].crop:.0%}: {cut[0].record.name}"
            )
        return notes

    def _worst_first(self, flaw: Flaw, rank: Callable[[ImageCost], float]) -> list[ImageCost]:
        return sorted((cost for cost in self.images if flaw in cost.flaws), key=rank)


def report_buckets(
    images: Sequence[ImageRecord], placements: Sequence[Placement], options: DataOptions, *, batch_size: int = 1
) -> BucketReport:
    """Sum up what the placements do to the images (at least one).

    Args:
        images: The data set's images.
        placements: One for each.
        options: Those of the data.
        batch_size: Images in a batch, for folders that have no own.
    """
    pairs = list(zip(images, placements, strict=True))
    settled = settle_geometry({record.subset.name: record.subset for record, _ in pairs}.values(), options)
    visits: dict[tuple[Size, int], float] = defaultdict(float)
    counts: Counter[tuple[Size, int]] = Counter()
    for record, placement in pairs:
        key = placement.bucket, record.subset.batch_size or batch_size
        visits[key] += record.subset.repeats
        counts[key] += 1
    return BucketReport(
        buckets=tuple(
            BucketCost(size=size, images=counts[size, batch], visits=max(1, round(times)), batch_size=batch)
            for (size, batch), times in sorted(visits.items())
        ),
        images=tuple(
            ImageCost(record=record, placement=placement, options=settled[record.subset.name])
            for record, placement in pairs
        ),
    )


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"
