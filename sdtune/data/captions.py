"""What happens to a caption at each visit; every draw hangs on seed, epoch and sample id."""

from __future__ import annotations

import random

from sdtune.randomness import derive_seed

_SEED_RANGE = 1 << 63


def shuffle_tags(caption: str, keep: int, seed: int, epoch: int, sample_id: str) -> str:
    """Shuffle the comma-separated tags behind the first `keep`; tags are joined by `, `."""
    tags = [tag.strip() for tag in caption.split(",")]
    tail = [tag for tag in tags[keep:] if tag]
    random.Random(derive_seed(seed, "shuffle_tags", epoch, sample_id)).shuffle(tail)
    return ", ".join([*tags[:keep], *tail])


def drops_caption(rate: float, seed: int, epoch: int, sample_id: str) -> bool:
    """Tell whether this visit has an empty caption; true for a share `rate` in [0, 1] of all visits."""
    return derive_seed(seed, "caption_dropout", epoch, sample_id) < rate * _SEED_RANGE


def is_flipped(seed: int, epoch: int, sample_id: str) -> bool:
    """Tell whether this visit is mirrored; true for half of all visits."""
    return derive_seed(seed, "flip", epoch, sample_id) % 2 == 1
