"""Checks of what buckets do to the images."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from sdtune.data.buckets import LOW_AREA_SHARE, crop_share
from sdtune.data.check import kinds
from sdtune.data.check.files import leave_out
from sdtune.data.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.data.check.survey import SeenFolder, SeenImage, Survey
    from sdtune.data.types import Placement

HEAVY_CROP = 0.2
ENLARGED, TINY = 1.1, 2.0


def enlarged_images(survey: Survey) -> Iterator[Finding]:
    """Find images that are smaller than their bucket."""
    for folder, image, placement in _placed(survey):
        assert image.size is not None
        factor = math.sqrt(math.prod(placement.resized) / math.prod(image.size))
        if factor >= ENLARGED:
            is_tiny = factor >= TINY
            yield Finding(
                kind=kinds.TINY if is_tiny else kinds.ENLARGED,
                place=str(image.path),
                message=f"{image.size} px, enlarged {factor:.1f} times to {placement.resized}",
                remedy="take a larger picture; or data.buckets.no_upscale=true, or a lower data.resolution",
                script=leave_out(folder, image) if is_tiny else (),
            )


def heavy_crops(survey: Survey) -> Iterator[Finding]:
    """Find images that lose much at their edges."""
    for _, image, placement in _placed(survey):
        if (share := crop_share(placement)) > HEAVY_CROP:
            yield Finding(
                kind=kinds.HEAVY_CROP,
                place=str(image.path),
                message=f"{share:.0%} of it is cut away: {image.size} px to {placement.bucket}",
                remedy="crop it yourself to what matters, or give data.buckets.max_px a higher value; "
                "`sdtune data buckets` shows all",
            )


def bucket_sizes(survey: Survey) -> Iterator[Finding]:
    """Find buckets with fewer visits than a batch, or far fewer pixels than the others."""
    visits: dict[object, float] = defaultdict(float)
    members: dict[object, list[SeenImage]] = defaultdict(list)
    for folder, image, placement in _placed(survey):
        visits[placement.bucket] += folder.repeats
        members[placement.bucket].append(image)
    batch_size, target = survey.run.batch_size, LOW_AREA_SHARE * math.prod(survey.run.size)
    for images in members.values():
        placement = images[0].placement
        assert placement is not None
        bucket, named = placement.bucket, ", ".join(image.path.name for image in images[:3])
        if survey.images_in_all is None and visits[bucket] < batch_size:
            yield Finding(
                kind=kinds.STARVING_BUCKET,
                place=str(images[0].path),
                message=f"bucket {bucket} has {visits[bucket]:g} visits an epoch, a batch {batch_size}: {named}",
                remedy="crop these to the shape of others, add pictures of this shape, or use a smaller batch",
            )
        if math.prod(bucket) < target:
            yield Finding(
                kind=kinds.LOW_AREA,
                place=str(images[0].path),
                message=f"bucket {bucket} has {math.prod(bucket) / math.prod(survey.run.size):.0%} of the pixels of "
                f"{survey.run.size}: {named}",
                remedy="crop these pictures, or allow longer sides: data.buckets.max_px",
            )


def _placed(survey: Survey) -> Iterator[tuple[SeenFolder, SeenImage, Placement]]:
    for folder in survey.read_folders():
        for image in folder.images:
            if image.placement is not None and image.size is not None:
                yield folder, image, image.placement
