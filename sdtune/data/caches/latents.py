"""Latents computed once and kept by content, so that an edited image or another VAE never meets a stale entry."""

from __future__ import annotations

from array import array
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.data.ahead import map_ahead
from sdtune.data.caches.tensor_store import content_key, distinct, pack_keys
from sdtune.data.pictures.colors import parse_color
from sdtune.data.pictures.pixels import PIXELS_VERSION, load_pixels
from sdtune.data.tables.lazy import LazySequence
from sdtune.errors import DataError, PlatformError, Problems
from sdtune.models.base import Posterior

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from sdtune.data.caches.tensor_store import TensorStore
    from sdtune.data.types import ImageRecord, Placement, Size

    Encode = Callable[[Tensor], Posterior]
    OnProgress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentItem:
    """One picture the VAE sees: an image, placed, as it is or mirrored."""

    record: ImageRecord
    placement: Placement
    flipped: bool = False


class LatentCache:
    """The VAE's answers for a data set.

    Args:
        store: Where entries are kept.
        vae_digest: Digest of the VAE's weights.
        dtype: Dtype the VAE computes in.
        alpha_color: Colour under transparent pixels.
    """

    def __init__(self, store: TensorStore, *, vae_digest: str, dtype: torch.dtype, alpha_color: str) -> None:
        self._store = store
        self._alpha_color = alpha_color
        self._facts = ("latents", PIXELS_VERSION, vae_digest, str(dtype), parse_color(alpha_color))

    def key(self, item: LatentItem) -> str:
        """Hash everything an entry depends on."""
        place = item.placement
        crop = (place.left, place.top)
        return content_key(
            *self._facts, item.record.digest, tuple(place.bucket), tuple(place.resized), crop, item.flipped
        )

    def missing(self, items: Sequence[LatentItem]) -> Sequence[LatentItem]:
        """List the items without a sound entry; when there are none, no VAE is needed."""
        keys = pack_keys(self.key(item) for item in items)
        first = distinct(keys)
        return LazySequence(items.__getitem__, first[self._store.missing(keys[first])])

    def count(self, items: Sequence[LatentItem]) -> int:
        """Count the entries of items: pictures that are alike have one together."""
        return len(distinct(pack_keys(self.key(item) for item in items)))

    def fill(
        self,
        items: Sequence[LatentItem],
        encode: Encode,
        *,
        batch_size: int = 1,
        workers: int = 0,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Encode items and keep the answers, so that a stopped fill goes on where it was.

        Args:
            items: What `missing` gave.
            encode: (B, 3, H, W) float32 in [-1, 1] to the posterior, in eval mode.
            batch_size: Images encoded at once; above 1 the last bits may differ from encoding one by one.
            workers: Threads that decode images while others are encoded; 0: none.
            on_progress: Called with the number of items done and the number of all.

        Raises:
            DataError: Images that cannot be read, or whose latents are not finite; told together after all others are
                kept.
            PlatformError: The store cannot keep them.
        """
        problems = Problems(DataError)
        done = 0
        decoded = map_ahead(self._decode, _batches(items, batch_size), workers=workers, ahead=2 * workers)
        try:
            with closing(decoded):
                for batch in decoded:
                    self._encode(_sound(batch, problems), encode, problems)
                    done += len(batch)
                    if on_progress is not None:
                        on_progress(done, len(items))
        finally:
            self._store.flush()
        problems.raise_if_any()

    def get(self, items: Sequence[LatentItem]) -> Posterior:
        """Give the posterior of items of one bucket: mean and std, both (B, 4, h, w).

        Raises:
            PlatformError: An entry is gone or damaged since `fill`.
        """
        entries = [self._entry(item) for item in items]
        return Posterior(
            mean=torch.stack([entry.mean for entry in entries]), std=torch.stack([entry.std for entry in entries])
        )

    def _decode(self, batch: Sequence[LatentItem]) -> list[tuple[LatentItem, Tensor | DataError]]:
        """Decode a batch; called in several threads at once."""
        return [(item, self._pixels(item)) for item in batch]

    def _pixels(self, item: LatentItem) -> Tensor | DataError:
        try:
            return load_pixels(item.record, item.placement, self._alpha_color, flipped=item.flipped)
        except DataError as error:
            return error

    def _encode(self, pictures: Sequence[tuple[LatentItem, Tensor]], encode: Encode, problems: Problems) -> None:
        if not pictures:
            return
        with torch.no_grad():
            posterior = encode(torch.stack([pixels for _, pixels in pictures]))
        for (item, _), mean, std in zip(pictures, posterior.mean, posterior.std, strict=True):
            if mean.isfinite().all() and std.isfinite().all():
                self._store.save(self.key(item), {"mean": mean, "std": std})
            else:
                problems.add(
                    f"the VAE gives latents that are not finite for {item.record.path}",
                    hint="try train.precision=fp32, or another VAE",
                )

    def _entry(self, item: LatentItem) -> Posterior:
        entry = self._load(self.key(item))
        if entry is None:
            raise PlatformError(
                f"the cached latents of {item.record.name} are gone or damaged", hint="resume: they are encoded again"
            )
        return entry

    def _load(self, key: str) -> Posterior | None:
        tensors = self._store.load(key)
        if tensors is None or tensors.keys() != {"mean", "std"}:
            return None
        return Posterior(mean=tensors["mean"], std=tensors["std"])


def encode_each(encode: Encode, pixels: Tensor) -> Posterior:
    """Encode (B, 3, H, W) pixels one by one: to the last bit what the cache gives, whatever is in the batch."""
    with torch.no_grad():
        answers = [encode(picture[None]) for picture in pixels]
    return Posterior(
        mean=torch.cat([answer.mean for answer in answers]), std=torch.cat([answer.std for answer in answers])
    )


def _batches(items: Sequence[LatentItem], batch_size: int) -> Iterator[Sequence[LatentItem]]:
    """Cut items into batches of one bucket each."""
    by_bucket: dict[Size, array[int]] = defaultdict(lambda: array("q"))
    for number, item in enumerate(items):
        by_bucket[item.placement.bucket].append(number)
    for group in by_bucket.values():
        for start in range(0, len(group), batch_size):
            yield [items[number] for number in group[start : start + batch_size]]


def _sound(
    batch: Sequence[tuple[LatentItem, Tensor | DataError]], problems: Problems
) -> list[tuple[LatentItem, Tensor]]:
    """Give the images that could be read, and note why the others could not."""
    pictures = []
    for item, answer in batch:
        if isinstance(answer, DataError):
            problems.take(answer)
        else:
            pictures.append((item, answer))
    return pictures
