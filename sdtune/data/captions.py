"""What happens to a caption at each visit; every draw hangs on seed, epoch and sample id."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Sequence

_SEED_RANGE = 1 << 63


def shuffle_tags(caption: str, keep: int, seed: int, epoch: int, sample_id: str) -> str:
    """Shuffle the comma-separated tags behind the first `keep`; tags are joined by `, `."""
    tags = [tag.strip() for tag in caption.split(",")]
    tail = [tag for tag in tags[keep:] if tag]
    random.Random(derive_seed(seed, "shuffle_tags", epoch, sample_id)).shuffle(tail)
    return ", ".join([*tags[:keep], *tail])


def drop_tags(caption: str, keep: int, rate: float, seed: int, epoch: int, sample_id: str) -> str:
    """Leave out each comma-separated tag behind the first `keep` with probability `rate`; tags are joined by `, `."""
    if not rate:
        return caption
    tags = [tag.strip() for tag in caption.split(",")]
    draws = random.Random(derive_seed(seed, "drop_tags", epoch, sample_id))
    return ", ".join([*tags[:keep], *(tag for tag in tags[keep:] if draws.random() >= rate)])


def choose_form(forms: Sequence[str], seed: int, epoch: int, sample_id: str) -> str:
    """Draw one of the forms a caption can take."""
    return forms[derive_seed(seed, "caption_form", epoch, sample_id) % len(forms)]


def drops_caption(rate: float, seed: int, epoch: int, sample_id: str) -> bool:
    """Tell whether this visit has an empty caption; true for a share `rate` in [0, 1] of all visits."""
    return derive_seed(seed, "caption_dropout", epoch, sample_id) < rate * _SEED_RANGE


def is_flipped(seed: int, epoch: int, sample_id: str) -> bool:
    """Tell whether this visit is mirrored; true for half of all visits."""
    return derive_seed(seed, "flip", epoch, sample_id) % 2 == 1
