"""The order of an epoch, a pure function of seed and epoch: each visit once, one bucket in a batch."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from sdtune.data.types import BatchPlan, Visit
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.data.rotation import Rotation
    from sdtune.data.types import ImageRecord, Placement, Size


def plan_epoch(
    seed: int,
    epoch: int,
    images: Sequence[ImageRecord],
    placements: Sequence[Placement],
    batch_size: int,
    rotations: Sequence[Rotation] = (),
) -> tuple[BatchPlan, ...]:
    """Plan an epoch: shuffle the visits within each bucket, cut them into batches, shuffle the batches.

    Args:
        seed: The run's seed; counts from the first epoch on.
        epoch: Epoch, from 0.
        images: The data set's images.
        placements: One for each image.
        batch_size: Visits in a batch; the last batch of a bucket may have fewer.
        rotations: How regularization images take turns.
    """
    draws = random.Random(derive_seed(seed, "order", epoch))
    by_bucket = _visits_by_bucket(images, placements)
    for rotation in rotations:
        by_bucket[rotation.bucket] += rotation.turn(seed, epoch)
    batches = []
    for bucket, visits in sorted(by_bucket.items()):
        draws.shuffle(visits)
        for start in range(0, len(visits), batch_size):
            batches.append(BatchPlan(bucket=bucket, visits=tuple(visits[start : start + batch_size])))
    draws.shuffle(batches)
    return tuple(batches)


def batches_per_epoch(
    images: Sequence[ImageRecord],
    placements: Sequence[Placement],
    batch_size: int,
    rotations: Sequence[Rotation] = (),
) -> int:
    """Count the batches `plan_epoch` gives, the same in every epoch."""
    counts = count_visits(images, placements, rotations)
    return sum(-(-count // batch_size) for count in counts.values())


def count_visits(
    images: Sequence[ImageRecord], placements: Sequence[Placement], rotations: Sequence[Rotation] = ()
) -> Counter[Size]:
    """Count the visits of an epoch by bucket."""
    visits: Counter[Size] = Counter()
    for record, placement in zip(images, placements, strict=True):
        if not record.subset.is_regularization:
            visits[placement.bucket] += round(record.subset.repeats)
    for rotation in rotations:
        visits[rotation.bucket] += rotation.visits
    return visits


def _visits_by_bucket(images: Sequence[ImageRecord], placements: Sequence[Placement]) -> dict[Size, list[Visit]]:
    visits: dict[Size, list[Visit]] = defaultdict(list)
    for index, (record, placement) in enumerate(zip(images, placements, strict=True)):
        for repeat in range(0 if record.subset.is_regularization else round(record.subset.repeats)):
            visits[placement.bucket].append(Visit(image=index, sample_id=f"{record.name}#{repeat}"))
    return visits
