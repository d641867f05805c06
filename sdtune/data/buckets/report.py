"""What buckets cost: pixels that are cut away, enlarged or missing, and batches that are never full."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.buckets.placing import settle_geometry
from sdtune.data.buckets.rules import target_area
from sdtune.data.check.finding import Finding
from sdtune.data.check.kinds import ENLARGED, HEAVY_CROP, LOW_AREA, STARVING_BUCKET
from sdtune.data.sources.listing import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.config.buckets import BucketOptions
    from sdtune.config.data import DataOptions
    from sdtune.data.check.finding import DefectKind
    from sdtune.data.types import ImageRecord, Placement, Size

LOW_AREA_SHARE = 0.8
MOST_ENLARGEMENT = 1.5
MOST_CROP_SHARE = 0.25
KINDS = (STARVING_BUCKET, LOW_AREA, ENLARGED, HEAVY_CROP)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageCost:
    """What its placement does to one image.

    Attributes:
        record: The image.
        placement: How it is placed.
        options: Options by which it is.
        batch_size: Images in a batch of its folder.
    """

    record: ImageRecord
    placement: Placement
    options: DataOptions
    batch_size: int

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
    def defects(self) -> tuple[DefectKind, ...]:
        """What is wrong with it, on its own."""
        wrong = {
            LOW_AREA: self.area < LOW_AREA_SHARE,
            ENLARGED: self.scale > MOST_ENLARGEMENT,
            HEAVY_CROP: self.crop > MOST_CROP_SHARE,
        }
        return tuple(kind for kind, is_so in wrong.items() if is_so)


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
        buckets: Each bucket, by size.
        images: Each image, in the order of the data set.
    """

    buckets: tuple[BucketCost, ...]
    images: tuple[ImageCost, ...]

    @property
    def crop(self) -> float:
        """Share of all pixels, as they are resized, that is cut away."""
        kept = sum(math.prod(cost.placement.bucket) for cost in self.images)
        return 1 - kept / sum(math.prod(cost.placement.resized) for cost in self.images)

    def findings(self) -> tuple[Finding, ...]:
        """List what is wrong: starving buckets and buckets of low area one by one, then images one by one."""
        names: dict[tuple[Size, int], list[str]] = defaultdict(list)
        low: dict[Size, list[ImageCost]] = defaultdict(list)
        for cost in self.images:
            names[cost.placement.bucket, cost.batch_size].append(str(cost.record.path))
            if LOW_AREA in cost.defects:
                low[cost.placement.bucket].append(cost)
        starving = [_starving(it, names[it.size, it.batch_size]) for it in self.buckets if it.is_starving]
        return (*starving, *(_low(low[size]) for size in sorted(low)), *self._image_findings())

    def _image_findings(self) -> Iterator[Finding]:
        for cost in self.images:
            if ENLARGED in cost.defects:
                yield _upscaled(cost)
            if HEAVY_CROP in cost.defects:
                yield _heavy_crop(cost)


def report_buckets(
    images: Sequence[ImageRecord], placements: Sequence[Placement], options: DataOptions, *, batch_size: int = 1
) -> BucketReport:
    """Sum up what the placements do to the images.

    Args:
        images: The data set's images.
        placements: One for each.
        options: Those of the data.
        batch_size: Images in a batch, for folders that have no own.
    """
    pairs = list(zip(images, placements, strict=True))
    subsets = {record.subset.name: record.subset for record, _ in pairs}
    settled = settle_geometry(subsets.values(), options)
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
            ImageCost(
                record=record,
                placement=placement,
                options=settled[record.subset.name],
                batch_size=record.subset.batch_size or batch_size,
            )
            for record, placement in pairs
        ),
    )


def bucket_notes(report: BucketReport) -> list[str]:
    """Tell what is wrong, one line for each kind of defect, with the worst of it."""
    notes = []
    if starving := [bucket for bucket in report.buckets if bucket.is_starving]:
        sizes = shorten([f"{bucket.size} ({bucket.visits} of {bucket.batch_size})" for bucket in starving])
        notes.append(f"{_count(starving, 'bucket')} with fewer visits an epoch than a batch holds: {sizes}")
    costs = {
        kind: [cost for cost in report.images if kind in cost.defects] for kind in (LOW_AREA, ENLARGED, HEAVY_CROP)
    }
    if low := costs[LOW_AREA]:
        worst = min(low, key=lambda cost: cost.area)
        notes.append(
            f"{_count(low, 'image')} in buckets below {LOW_AREA_SHARE:.0%} of the area that is meant, least "
            f"{worst.area:.0%}: {worst.record.name} in {worst.placement.bucket}"
        )
    if upscaled := costs[ENLARGED]:
        worst = max(upscaled, key=lambda cost: cost.scale)
        notes.append(
            f"{_count(upscaled, 'image')} enlarged more than {MOST_ENLARGEMENT:g} times, most {worst.scale:.1f} times: "
            f"{worst.record.name}"
        )
    if cut := costs[HEAVY_CROP]:
        worst = max(cut, key=lambda cost: cost.crop)
        notes.append(
            f"{_count(cut, 'image')} of which more than {MOST_CROP_SHARE:.0%} is cut away, most {worst.crop:.0%}: "
            f"{worst.record.name}"
        )
    return notes


def crop_share(placement: Placement) -> float:
    """Share of the resized image that is cut away, in [0, 1)."""
    return 1 - math.prod(placement.bucket) / math.prod(placement.resized)


def enlargement(size: Size, placement: Placement) -> float:
    """Factor by which the sides of an image of a size grow; below 1 it shrinks."""
    return math.sqrt(math.prod(placement.resized) / math.prod(size))


def _count(things: Sequence[object], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def _starving(bucket: BucketCost, names: Sequence[str]) -> Finding:
    return Finding(
        kind=STARVING_BUCKET,
        place=shorten(names),
        message=f"bucket {bucket.size} has {bucket.visits} visits an epoch, a batch holds {bucket.batch_size}",
        remedy="crop them to a common shape, add images of this shape, raise repeats, or set fewer buckets with "
        "data.buckets.rule=ratios data.buckets.num_bucket=N",
    )


def _low(costs: Sequence[ImageCost]) -> Finding:
    worst = min(costs, key=lambda cost: cost.area)
    return Finding(
        kind=LOW_AREA,
        place=shorten([str(cost.record.path) for cost in costs]),
        message=f"bucket {worst.placement.bucket} has {worst.area:.0%} of the pixels that are meant",
        remedy=_more_area(worst.options.buckets),
    )


def _more_area(options: BucketOptions) -> str:
    if options.enabled and options.no_upscale:
        return "use larger images, or a lower data.resolution"
    if options.enabled and options.rule == "fixed":
        return "add a larger size of this shape to data.buckets.sizes"
    return "crop it to a less narrow shape, or raise data.buckets.max_px and lower data.buckets.min_px"


def _upscaled(cost: ImageCost) -> Finding:
    return Finding(
        kind=ENLARGED,
        place=str(cost.record.path),
        message=f"{cost.record.size} is enlarged {cost.scale:.1f} times to bucket {cost.placement.bucket}",
        remedy="use a larger original, leave it out, or set data.buckets.no_upscale=true",
    )


def _heavy_crop(cost: ImageCost) -> Finding:
    return Finding(
        kind=HEAVY_CROP,
        place=str(cost.record.path),
        message=f"{cost.crop:.0%} of {cost.record.size} is cut away for bucket {cost.placement.bucket}",
        remedy="cut it yourself, set data.crop=focal, or allow buckets of its shape",
    )
