"""Images of one bucket, and how often each is seen in a round: its whole repeats, and the rest of them in turn."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sdtune.data.types import Size

K = TypeVar("K", bound=tuple[object, ...])
NO_ROUND = -1


class Shape(NamedTuple):
    """What the samples of a batch have in common: their bucket, and how many there are in a full one."""

    bucket: Size
    batch_size: int

    @property
    def pixels(self) -> int:
        """Pixels in a full batch."""
        return self.bucket.width * self.bucket.height * self.batch_size


class Visits(NamedTuple):
    """Visits as columns of one length V.

    Attributes:
        images: (V,) uint32: index into the data set's images.
        repeats: (V,) uint16: which of the image's visits in a round it is, from 0.
        rounds: (V,) int32: of images that take turns, which of their rounds; else -1.
    """

    images: NDArray[np.uint32]
    repeats: NDArray[np.uint16]
    rounds: NDArray[np.int32]

    def take(self, places: NDArray[np.integer]) -> Visits:
        """Give the visits at some places, in their order."""
        return Visits(self.images[places], self.repeats[places], self.rounds[places])

    @classmethod
    def join(cls, parts: Sequence[Visits]) -> Visits:
        """Put visits (one part at least) one behind the other."""
        return cls(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extra:
    """Images of one folder and bucket of which some have one visit more in a round, each as often as the others.

    Attributes:
        name: The folder's.
        places: (n,) places of the images in their pool.
        visits: How many of them have it, 1 to n; the same number in each round.
    """

    name: str
    places: NDArray[np.intp]
    visits: int

    def turn(self, seed: int, bucket: Size, number: int) -> NDArray[np.intp]:
        """Give the places whose turn it is in round `number`.

        The images are shuffled into a ring, and each round takes the next of it. When the ring ends together with a
        round, every image has had equally many turns, and it is shuffled anew. So no image has two turns in a round,
        nor is it ever more than one turn ahead of another.
        """
        count = len(self.places)
        lap, place = divmod(number, count // math.gcd(count, self.visits))
        ring = shuffled(random.Random(derive_seed(seed, "repeats", self.name, str(bucket), lap)), count)
        return self.places[ring.take(range(place * self.visits, (place + 1) * self.visits), mode="wrap")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Images that may be in one batch.

    Attributes:
        shape: That of their batches.
        images: (N,) uint32: indices into the data set's images, ascending.
        whole: (N,) uint16: how often each is seen in every round.
        extras: Those of which some are seen once more.
    """

    shape: Shape
    images: NDArray[np.uint32]
    whole: NDArray[np.uint16]
    extras: tuple[Extra, ...] = ()

    @property
    def visits(self) -> int:
        """Visits in a round, the same number in each."""
        return int(self.whole.sum(dtype=np.int64)) + sum(extra.visits for extra in self.extras)

    def round(self, seed: int, number: int) -> Visits:
        """List the visits of a round, image by image."""
        counts = self.whole.astype(np.int64)
        for extra in self.extras:
            counts[extra.turn(seed, self.shape.bucket, number)] += 1
        firsts = np.cumsum(counts) - counts
        repeats = np.arange(counts.sum()) - np.repeat(firsts, counts)
        rounds = np.full(len(repeats), NO_ROUND, dtype=np.int32)
        return Visits(np.repeat(self.images, counts), repeats.astype(np.uint16), rounds)


def shuffled(draws: random.Random, count: int) -> NDArray[np.uint32]:
    """Shuffle the numbers below `count` as `draws.shuffle` shuffles a list of as many things."""
    row = array("I", range(count))  # a third faster than a list, and a tenth of its memory
    draws.shuffle(row)
    return np.asarray(row, dtype=np.uint32)


def visits_of(repeats: float, count: int) -> int:
    """Count the visits of `count` images in a round; half of one is one."""
    return math.floor(repeats) * count + int(repeats % 1 * count + 0.5)


def split_repeats(repeats: float, counts: Mapping[K, int]) -> tuple[int, dict[K, int]]:
    """Split a folder's repeats into whole ones and, bucket by bucket, how many of its images have one more.

    Images that would else never be seen come to their turn in every bucket.

    Args:
        repeats: Visits of an image in a round, above 0.
        counts: The folder's images by bucket, each at least 1.
    """
    whole = math.floor(repeats)
    count = sum(counts.values())
    more = visits_of(repeats, count) - whole * count
    return whole, share(more, counts, least=0 if whole else 1)


def share(total: int, counts: Mapping[K, int], *, least: int) -> dict[K, int]:
    """Divide a number in proportion to counts, by largest remainders; each part is `least` or more."""
    everything = sum(counts.values())
    exact = {key: total * count / everything for key, count in sorted(counts.items())}
    parts = {key: int(value) for key, value in exact.items()}
    by_remainder = sorted(exact, key=lambda key: parts[key] - exact[key])
    for key in by_remainder[: total - sum(parts.values())]:
        parts[key] += 1
    return {key: max(least, part) for key, part in parts.items()}
