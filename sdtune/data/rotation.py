"""Regularization images take turns: each epoch sees as many, and after some epochs every one was seen equally often."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.types import Size, Visit
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdtune.data.types import ImageRecord, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """Regularization images of one bucket that take turns.

    Attributes:
        name: Tells it from other rotations of the bucket.
        bucket: Their bucket.
        entries: Index into the data set's images, and name of the sample; an image has one for each of its repeats.
        visits: How many of them an epoch sees, at least 1; the same number in each.
    """

    name: str
    bucket: Size
    entries: tuple[Visit, ...]
    visits: int

    def turn(self, seed: int, epoch: int) -> list[Visit]:
        """List the visits of an epoch: the next of an endless row of shuffles of all entries."""
        first = epoch * self.visits
        rounds = range(first // len(self.entries), (first + self.visits - 1) // len(self.entries) + 1)
        row = [visit for number in rounds for visit in self._round(seed, number)]
        start = first - rounds[0] * len(self.entries)
        return row[start : start + self.visits]

    def _round(self, seed: int, number: int) -> list[Visit]:
        order = list(self.entries)
        random.Random(derive_seed(seed, "rotation", self.name, str(self.bucket), number)).shuffle(order)
        return [Visit(image=entry.image, sample_id=f"{entry.sample_id}.{number}") for entry in order]


def plan_rotations(
    images: Sequence[ImageRecord], placements: Sequence[Placement], ratio: float
) -> tuple[Rotation, ...]:
    """Settle how many visits an epoch has of the regularization images, group by group and bucket by bucket.

    A group (folders that pair with the same training folders) has `ratio` visits for each visit of an image of those
    folders. Its buckets share them as they share its images, so that each image is seen equally often; each bucket has
    one at least.

    Args:
        images: The data set's images.
        placements: One for each image.
        ratio: Regularization visits for one instance visit, above 0.
    """
    groups: dict[tuple[str, ...], dict[Size, list[Visit]]] = defaultdict(lambda: defaultdict(list))
    for index, (record, placement) in enumerate(zip(images, placements, strict=True)):
        if record.subset.is_regularization:
            entries = groups[record.subset.pairs_with][placement.bucket]
            entries += [Visit(image=index, sample_id=f"{record.name}#{n}") for n in range(round(record.subset.repeats))]
    return tuple(
        Rotation(name="+".join(pairs), bucket=bucket, entries=tuple(by_bucket[bucket]), visits=visits)
        for pairs, by_bucket in sorted(groups.items())
        for bucket, visits in _share(round(ratio * _instance_visits(images, pairs)), by_bucket).items()
    )


def _instance_visits(images: Sequence[ImageRecord], pairs: tuple[str, ...]) -> int:
    own = (image.subset for image in images if not image.subset.is_regularization)
    return sum(round(subset.repeats) for subset in own if not pairs or subset.name in pairs)


def _share(visits: int, by_bucket: Mapping[Size, Sequence[Visit]]) -> dict[Size, int]:
    """Divide visits in proportion to the entries of each bucket, by largest remainders; each has at least 1."""
    total = sum(len(entries) for entries in by_bucket.values())
    exact = {bucket: visits * len(entries) / total for bucket, entries in sorted(by_bucket.items())}
    shares = Counter({bucket: int(share) for bucket, share in exact.items()})
    rest = visits - sum(shares.values())
    by_remainder = sorted(exact, key=lambda bucket: shares[bucket] - exact[bucket])
    shares.update(by_remainder[:rest])
    return {bucket: max(1, shares[bucket]) for bucket in exact}
