"""What the epochs of a data set are made of: which images may share a batch, and how often each is seen."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.order.epoch import EpochPlan, shuffle_epoch
from sdtune.data.order.pool import Extra, Pool, Shape, share, split_repeats
from sdtune.data.order.rotation import Rotation
from sdtune.data.tables.records import ImageTable, PlacementTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from sdtune.data.types import ImageRecord, Placement, Size, Subset


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Order:
    """The order of all epochs, without the seed.

    Attributes:
        images: The data set's images.
        pools: Those of what is learned, by bucket and batch size; each epoch is a round of theirs.
        rotations: Regularization images, which take turns.
    """

    images: ImageTable
    pools: tuple[Pool, ...]
    rotations: tuple[Rotation, ...]

    def plan(self, seed: int, epoch: int) -> EpochPlan:
        """Plan an epoch, from 0: a pure function of the seed, the epoch and the images."""
        return shuffle_epoch(seed, epoch, self.images, self.pools, self.rotations)

    @property
    def counts(self) -> Counter[Shape]:
        """Visits of an epoch by shape of batch, the same in each."""
        counts: Counter[Shape] = Counter()
        for pool in self.pools:
            counts[pool.shape] += pool.visits
        for rotation in self.rotations:
            counts[rotation.pool.shape] += rotation.visits
        return counts

    @property
    def batches(self) -> int:
        """Batches of an epoch, the same in each."""
        return sum(-(-count // shape.batch_size) for shape, count in self.counts.items())

    @property
    def largest(self) -> Shape:
        """The shape with most pixels in a full batch."""
        return min(self.counts, key=lambda shape: (-shape.pixels, shape))

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """How many visits full batches have, the largest first."""
        return tuple(sorted({shape.batch_size for shape in self.counts}, reverse=True))

    @property
    def regularization_visits(self) -> int:
        """Visits of regularization images in an epoch, the same in each."""
        return sum(rotation.visits for rotation in self.rotations)


def arrange(
    images: Sequence[ImageRecord], placements: Sequence[Placement], batch_size: int, ratio: float = 1.0
) -> Order:
    """Settle what the epochs of a data set are made of.

    Training images are seen as often as their folder's repeats say. A group of regularization images (folders that
    pair with the same training folders) has `ratio` visits for each visit of an image of those folders. Its buckets
    share them as they share its images, so that each image is seen equally often; each bucket has one at least.

    Args:
        images: The data set's images.
        placements: One for each image.
        batch_size: Visits in a batch, where a folder does not say otherwise.
        ratio: Regularization visits for one instance visit, above 0.
    """
    table = ImageTable.of(images)
    folders = _sort(table, placements, batch_size)
    visits = {folder.subset.name: folder.visits for folder in folders}
    groups: dict[tuple[str, ...], list[_Folder]] = defaultdict(list)
    for folder in folders:
        if folder.subset.is_regularization:
            groups[folder.subset.pairs_with].append(folder)
    own = [folder for folder in folders if not folder.subset.is_regularization]
    rotations = []
    for pairs, group in sorted(groups.items()):
        paired = sum(visits[folder.subset.name] for folder in own if not pairs or folder.subset.name in pairs)
        rotations += _rotate("+".join(pairs), _pools(group), round(ratio * paired))
    return Order(images=table, pools=tuple(_pools(own)), rotations=tuple(rotations))


def plan_epoch(
    seed: int, epoch: int, images: Sequence[ImageRecord], placements: Sequence[Placement], batch_size: int
) -> EpochPlan:
    """Plan one epoch, as `Order.plan` does."""
    return arrange(images, placements, batch_size).plan(seed, epoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folder:
    """A folder's images by bucket: indices, ascending."""

    subset: Subset
    batch_size: int
    places: Mapping[Size, NDArray[np.uint32]]

    @property
    def repeats(self) -> tuple[int, dict[Size, int]]:
        return split_repeats(self.subset.repeats, {bucket: len(found) for bucket, found in self.places.items()})

    @property
    def visits(self) -> int:
        whole, more = self.repeats
        return whole * sum(map(len, self.places.values())) + sum(more.values())


def _sort(images: ImageTable, placements: Sequence[Placement], batch_size: int) -> list[_Folder]:
    subsets, buckets = images.subsets, PlacementTable.of(placements).buckets
    folders = []
    for number, subset in enumerate(subsets.choices):
        rows = np.flatnonzero(subsets.numbers == number).astype(np.uint32)
        own = buckets.numbers[rows]
        places = {buckets.choices[place]: rows[own == place] for place in np.unique(own).tolist()}
        if places:
            folders.append(_Folder(subset=subset, batch_size=subset.batch_size or batch_size, places=places))
    return folders


def _pools(folders: Iterable[_Folder]) -> list[Pool]:
    """Put images of one shape together, by shape."""
    members: dict[Shape, list[tuple[_Folder, int, int]]] = defaultdict(list)
    for folder in folders:
        whole, more = folder.repeats
        for bucket in folder.places:
            members[Shape(bucket, folder.batch_size)].append((folder, whole, more[bucket]))
    return [_pool(shape, found) for shape, found in sorted(members.items(), key=lambda item: item[0])]


def _pool(shape: Shape, members: Sequence[tuple[_Folder, int, int]]) -> Pool:
    parts = [folder.places[shape.bucket] for folder, _, _ in members]
    images = np.concatenate(parts)
    whole = np.repeat(np.array([count for _, count, _ in members], np.uint16), [len(part) for part in parts])
    order = np.argsort(images)
    images = images[order]
    extras = [
        Extra(name=folder.subset.name, places=np.searchsorted(images, part), visits=more)
        for (folder, _, more), part in zip(members, parts, strict=True)
        if more
    ]
    return Pool(shape=shape, images=images, whole=whole[order], extras=tuple(extras))


def _rotate(name: str, pools: Sequence[Pool], visits: int) -> list[Rotation]:
    shares = share(visits, {pool.shape: pool.visits for pool in pools}, least=1)
    return [Rotation(name=name, pool=pool, visits=shares[pool.shape]) for pool in pools]
