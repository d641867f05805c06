"""Where an image that covers its bucket is cut: around what is seen in it, or anywhere."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.buckets.focus import find_focuses
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sdtune.config.data import DataOptions
    from sdtune.data.buckets.focus import Focus
    from sdtune.data.types import ImageRecord, Placement

SPARE_SHARE = 0.02


def follow_focus(
    images: Sequence[ImageRecord], placements: Sequence[Placement], options: Mapping[str, DataOptions]
) -> tuple[Placement, ...]:
    """Move the crops of images in folders with `crop: focal` or `crop: face` to what is seen in them.

    Args:
        images: Images.
        placements: One for each, cut in the middle.
        options: Options that hold for a folder, by its name.
    """
    focused = {name for name, own in options.items() if own.crop in ("focal", "face")}
    numbers: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(images if focused else ()):
        if record.subset.name in focused and is_cut(placements[number]):
            numbers[record.subset.name].append(number)
    placed = list(placements)
    for name, own in numbers.items():
        found = find_focuses([images[number] for number in own], options[name])
        for number, focus in zip(own, found, strict=True):
            if focus is not None:
                placed[number] = crop_to_focus(placed[number], focus)
    return tuple(placed)


def is_cut(placement: Placement) -> bool:
    """Tell whether anything is cut away."""
    return placement.resized != placement.bucket


def crop_to_focus(placement: Placement, focus: Focus) -> Placement:
    """Cut so that as much of what matters is kept as can be, and stands in the middle of what is left."""
    left = best_offset(focus.across, placement.resized.width, placement.bucket.width)
    return replace(placement, left=left, top=best_offset(focus.down, placement.resized.height, placement.bucket.height))


def crop_anywhere(placement: Placement, seed: int, epoch: int, sample_id: str) -> Placement:
    """Cut anywhere, a function of (seed, "crop", epoch, sample id): each place is as likely."""
    draws = random.Random(derive_seed(seed, "crop", epoch, sample_id))
    left = draws.randint(0, placement.resized.width - placement.bucket.width)
    return replace(placement, left=left, top=draws.randint(0, placement.resized.height - placement.bucket.height))


def best_offset(weights: NDArray[np.float64], length_px: int, window_px: int) -> int:
    """Choose where a window begins so that it keeps most of the weight.

    Of neighbouring places that keep as much but for 2 % the middle one is taken: what is narrower than the window comes
    to stand in its middle if it can, and weights that are alike everywhere leave the window in the middle.

    Args:
        weights: (B,) weights of equal parts of the length, 0 or more.
        length_px: The length.
        window_px: The window, at most the length.
    """
    places = np.arange(-window_px, length_px + 1)  # beyond the ends too, so that what lies at an end is centred
    below = np.concatenate([[0.0], np.cumsum(weights, dtype=np.float64)])
    marks = np.linspace(0, length_px, len(below))
    kept = np.interp(places + window_px, marks, below) - np.interp(places, marks, below)
    is_good = kept >= kept.max() - SPARE_SHARE * below[-1]
    first = last = int(np.argmax(kept))
    while first > 0 and is_good[first - 1]:
        first -= 1
    while last < len(places) - 1 and is_good[last + 1]:
        last += 1
    middle = int(places[first] + places[last]) // 2
    return min(max(middle, 0), length_px - window_px)
