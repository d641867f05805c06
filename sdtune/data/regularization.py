"""Regularization images: pictures of the subject's class, which keep the class what it was (prior preservation)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdtune.config.schema import RegularizationOptions
    from sdtune.data.types import ImageRecord, Subset

PREFIX = "regularization/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizationSource:
    """A place with regularization images.

    Attributes:
        path: A folder of images, or of `N_name` folders.
        prompt: Caption of images without a caption file; None: the folder's name after `N_`.
        prefix: What the names of its images begin with.
        pairs_with: Names of the training folders they belong to; empty: found by name.
    """

    path: Path
    prompt: str | None
    prefix: str = PREFIX
    pairs_with: tuple[str, ...] = ()


def find_sources(options: RegularizationOptions) -> tuple[RegularizationSource, ...]:
    """List the places with regularization images."""
    return () if options.path is None else (RegularizationSource(path=options.path, prompt=options.prompt),)


def find_pairs(folders: Sequence[Subset], instances: Sequence[Subset]) -> list[tuple[str, ...]]:
    """Pair regularization folders with training folders by name.

    `1_dog` pairs with `10_zwx dog` and `5_dog`: the training folder's words end with its own. If one of the folders
    pairs with none, they belong to all training folders together.

    Args:
        folders: The regularization folders.
        instances: The training folders.

    Returns:
        For each folder the names of its training folders; empty: all.
    """
    pairs = [tuple(own.name for own in instances if _ends_with(_words(own), _words(other))) for other in folders]
    return pairs if all(pairs) else [()] * len(folders)


def instances_of(images: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """Leave the regularization images out."""
    return tuple(image for image in images if not image.subset.is_regularization)


def weight_at(subset: Subset, epoch: int, epochs: int) -> float:
    """Give a folder's loss weight in an epoch (from 0) of `epochs`: straight from the first one's to the last one's."""
    if subset.weight_end is None or epochs < 2:
        return subset.weight
    done = min(1.0, epoch / (epochs - 1))
    return subset.weight + done * (subset.weight_end - subset.weight)


def _words(subset: Subset) -> list[str]:
    """Split what a folder's name says behind its number; a name without one says nothing, and its class text counts."""
    numbered = re.fullmatch(r"\d+_(.*)", subset.path.resolve().name, re.DOTALL)
    own_text = "" if subset.is_regularization else subset.class_text
    return (numbered[1] if numbered else own_text).casefold().split()


def _ends_with(words: list[str], ending: list[str]) -> bool:
    return bool(ending) and words[-len(ending) :] == ending
