"""The order of an epoch, a pure function of seed and epoch: each visit once, one bucket in a batch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from sdtune.data.order.pool import NO_ROUND, Visits, shuffled
from sdtune.data.types import BatchPlan, Visit
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sdtune.data.order.pool import Pool, Shape
    from sdtune.data.order.rotation import Rotation
    from sdtune.data.tables.records import ImageTable
    from sdtune.data.types import Size


class EpochPlan(Sequence[BatchPlan]):
    """The batches of an epoch, kept as columns of 10 bytes a visit and 8 a batch, and made when they are asked for.

    Args:
        images: The data set's images, which give the names.
        visits: All visits, batch by batch.
        starts: (B + 1,) int64: where each batch begins, and where the last one ends.
        sizes: The buckets there are.
        buckets: (B,) uint32: each batch's place among them.
    """

    def __init__(
        self,
        images: ImageTable,
        visits: Visits,
        starts: NDArray[np.int64],
        sizes: Sequence[Size],
        buckets: NDArray[np.uint32],
    ) -> None:
        self._images = images
        self._visits = visits
        self._starts = starts.astype(np.uint32)
        self._sizes = sizes
        self._buckets = buckets

    def __len__(self) -> int:
        return len(self._buckets)

    @overload
    def __getitem__(self, place: int) -> BatchPlan: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[BatchPlan, ...]: ...
    def __getitem__(self, place: int | slice) -> BatchPlan | tuple[BatchPlan, ...]:
        found = range(len(self))[place]  # raises IndexError as a tuple does
        return self._batch(found) if isinstance(found, int) else tuple(map(self._batch, found))

    @property
    def lengths(self) -> NDArray[np.uint32]:
        """Visits in each batch, (B,)."""
        return np.diff(self._starts)

    @property
    def largest(self) -> BatchPlan:
        """The batch with most pixels; of equals the first."""
        areas = np.array([size.width * size.height for size in self._sizes])
        return self[int(np.argmax(areas[self._buckets] * self.lengths))]

    @property
    def nbytes(self) -> int:
        """Bytes that are kept, the images not counted."""
        return sum(column.nbytes for column in (*self._visits, self._starts, self._buckets))

    def _batch(self, place: int) -> BatchPlan:
        own = range(int(self._starts[place]), int(self._starts[place + 1]))
        return BatchPlan(bucket=self._sizes[self._buckets[place]], visits=tuple(map(self._visit, own)))

    def _visit(self, place: int) -> Visit:
        image, number = int(self._visits.images[place]), self._visits.rounds[place]
        name = f"{self._images.names[image]}#{self._visits.repeats[place]}"
        return Visit(image=image, sample_id=name if number == NO_ROUND else f"{name}.{number}")


def shuffle_epoch(
    seed: int,
    epoch: int,
    images: ImageTable,
    pools: Sequence[Pool],
    rotations: Sequence[Rotation] = (),
) -> EpochPlan:
    """Plan an epoch: shuffle the visits within each pool, cut them into batches, shuffle the batches.

    Args:
        seed: The run's seed; counts from the first epoch on.
        epoch: Epoch, from 0.
        images: The data set's images.
        pools: Which of them may be in one batch, and how often each is seen; the last batch of each may be short.
        rotations: How regularization images take turns; they join the pools of their shape.
    """
    draws = random.Random(derive_seed(seed, "order", epoch))
    parts: dict[Shape, list[Visits]] = defaultdict(list)
    for pool in pools:
        parts[pool.shape].append(pool.round(seed, epoch))
    for rotation in rotations:
        parts[rotation.pool.shape].append(rotation.turn(seed, epoch))
    rows, lengths = [], []
    for shape, own in sorted(parts.items(), key=lambda item: item[0]):
        row = Visits.join(own)
        rows.append(row.take(shuffled(draws, len(row.images))))
        lengths.append(_cut(len(row.images), shape.batch_size))
    buckets = np.repeat(np.arange(len(rows), dtype=np.uint32), [len(found) for found in lengths])
    order = shuffled(draws, len(buckets))
    visits, starts = _rearrange(Visits.join(rows), np.concatenate(lengths), order)
    return EpochPlan(images, visits, starts, [shape.bucket for shape in sorted(parts)], buckets[order])


def _cut(count: int, batch_size: int) -> NDArray[np.int64]:
    """Give the lengths of the batches of a row of visits; the last may be short."""
    starts = np.arange(0, count, batch_size)
    return np.minimum(batch_size, count - starts)


def _rearrange(
    visits: Visits, lengths: NDArray[np.int64], order: NDArray[np.uint32]
) -> tuple[Visits, NDArray[np.int64]]:
    """Put the visits of batches, given one behind the other, into the order of the batches; give their new starts."""
    old = (np.cumsum(lengths) - lengths)[order]
    starts = np.concatenate([[0], np.cumsum(lengths[order])])
    places = np.repeat(old - starts[:-1], lengths[order])
    places += np.arange(len(places))
    return visits.take(places), starts
