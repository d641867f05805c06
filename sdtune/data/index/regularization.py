"""Regularization images: pictures of the subject's class, which keep the class what it was (prior preservation)."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.config.data import DataOptions, settle
from sdtune.config.objective import MaskOptions
from sdtune.data.captions.prompts import class_text_of
from sdtune.data.sources.listing import shorten
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sdtune.config.buckets import BucketOptions
    from sdtune.config.regularization import RegularizationOptions
    from sdtune.config.subsets import SubsetOptions
    from sdtune.data.tables.records import ImageTable
    from sdtune.data.types import Subset

    Shape = tuple[str | None, BucketOptions, str, int | None]

PREFIX = "regularization/"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegularizationSource:
    """A place with regularization images.

    Attributes:
        path: A folder of images, or of `N_name` folders; it may still be missing where images are to be drawn.
        prefix: What the names of its images begin with.
        prompt: Caption of images without a caption file; None: the folder's name after `N_`.
        per_image: Images wanted for each image of the subject; missing ones are drawn. 0: what is there will do.
        weight: Weight of the loss.
        weight_end: Weight in the last epoch; None: as `weight`.
        belongs_to: The training folder it belongs to; None: found by name.
        token: What calls the subject; it is taken out of captions.
        class_word: What the subject is; it is in every caption.
    """

    path: Path
    prefix: str
    prompt: str | None
    per_image: int
    weight: float
    weight_end: float | None
    belongs_to: Path | None = None
    token: str = ""
    class_word: str = ""

    def name_class(self, text: str) -> str:
        """Name the class alone in a caption, where the source knows what it is."""
        return class_text_of(text, self.token, self.class_word) if self.token or self.class_word else text

    def is_for(self, subset: Subset) -> bool:
        """Tell whether it belongs to a training folder."""
        return self.belongs_to is None or subset.path.is_relative_to(self.belongs_to)


def find_sources(
    options: RegularizationOptions,
    data: DataOptions | None = None,
    folder_for: Callable[[str], Path] = Path,
) -> tuple[RegularizationSource, ...]:
    """List the places with regularization images, of all and of single training folders.

    Args:
        options: Those of all.
        data: Those of the training images, whose folders may have their own; None: there are none.
        folder_for: Gives the folder for images drawn by a prompt, where no path is given.

    Raises:
        ConfigError: Two of them are one folder.
    """
    places: list[tuple[str, Path | None, str | None, int, SubsetOptions | None]] = [
        (PREFIX, options.path, options.prompt, options.generate.per_image, None)
    ]
    data = data or DataOptions()
    for number, subset in enumerate(data.subsets, start=1):
        if (own := subset.regularization) is not None:
            places.append((f"{PREFIX}{number}/", own.path, own.prompt, own.per_image, subset))
    sources = tuple(
        RegularizationSource(
            path=path or folder_for(prompt or ""),
            prefix=prefix,
            prompt=prompt,
            per_image=per_image,
            weight=options.weight,
            weight_end=options.weight_end,
            belongs_to=subset.path if subset else None,
            token=settle(data, subset).token,
            class_word=settle(data, subset).class_word,
        )
        for prefix, path, prompt, per_image, subset in places
        if path is not None or per_image
    )
    _refuse_shared_folders(sources)
    return sources


def class_options(options: DataOptions, path: Path, class_text: str | None) -> DataOptions:
    """Give the options of images of the class: those of the data, but nothing of what the subject is called.

    Args:
        options: Those of the data.
        path: Where the images are.
        class_text: Caption of images without a caption file; None: the folder's name after `N_`.
    """
    place = {"path": path, "subsets": (), "mask": MaskOptions()}
    source = {"captions": "auto", "captions_json": None, "missing_captions": "error", "class_text": class_text}
    words = {"prompt": None, "token": "", "class_word": "", "prefix": "", "suffix": "", "templates": None}
    return options.model_copy(update={**place, **source, **words})


def adopt(
    source: RegularizationSource, folders: Sequence[Subset], instances: Sequence[Subset]
) -> tuple[dict[str, list[tuple[str, Subset]]], list[str]]:
    """Make the folders of a source regularization folders of the training folders that they pair with.

    Their images take resolution, buckets and batch size of the training folders. Where these have several, they are
    there once for each, and those of each belong to the training folders that are like them.

    Args:
        source: The place they were found in.
        folders: What was found.
        instances: The training folders.

    Returns:
        For each folder, by its old name, what the names of its images begin with and what it has become; and notes on
        folders that pair with none.
    """
    found = [replace(folder, is_regularization=True) for folder in folders]
    pairs, notes = _find_pairs(source, found, instances)
    adopted = {}
    for folder, names in zip(found, pairs, strict=True):
        parents = [own for own in instances if not names or own.name in names]
        adopted[folder.name] = [
            (
                source.prefix + label,
                replace(
                    folder,
                    name=source.prefix + label + folder.name,
                    weight=source.weight,
                    weight_end=source.weight_end,
                    pairs_with=tuple(own.name for own in alike) if label else names,
                    batch_size=alike[0].batch_size,
                ),
            )
            for label, alike in _by_shape(parents)
        ]
    return adopted, notes


def _by_shape(instances: Sequence[Subset]) -> list[tuple[str, list[Subset]]]:
    """Put training folders together whose images are brought to size and batch alike, each kind with a label."""
    kinds: dict[Shape, list[Subset]] = defaultdict(list)
    for own in instances:
        options = own.options
        kinds[options.resolution, options.buckets, options.crop, own.batch_size].append(own)
    if len(kinds) == 1:
        return [("", list(instances))]
    labels = [f"@{resolution}" for resolution, *_ in kinds]
    unique = [label + "+" * labels[:place].count(label) + "/" for place, label in enumerate(labels)]
    return list(zip(unique, kinds.values(), strict=True))


def _find_pairs(
    source: RegularizationSource, folders: Sequence[Subset], instances: Sequence[Subset]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Pair regularization folders with training folders: with the one they belong to, or by name or class.

    `1_dog` pairs with `10_zwx dog` and `5_dog`: the training folder's words end with its own. If one of the folders
    pairs with none, they belong to all training folders together.

    Returns:
        For each folder the names of its training folders, empty: all; and notes.
    """
    if source.belongs_to is not None:
        return [tuple(own.name for own in instances if source.is_for(own))] * len(folders), []
    pairs = [tuple(own.name for own in instances if _is_paired(own, _words(other))) for other in folders]
    if all(pairs):
        return pairs, []
    lost = [other.name for other, found in zip(folders, pairs, strict=True) if not found and _words(other)]
    note = f"{shorten(lost)}: no training folder of that name or class, so all folders belong to all training images"
    return [()] * len(folders), [note] if lost else []


def instances_of(images: ImageTable) -> ImageTable:
    """Leave the regularization images out."""
    return images.select(~images.is_regularization)


def weight_at(subset: Subset, epoch: int, epochs: int) -> float:
    """Give a folder's loss weight in an epoch (from 0) of `epochs`: straight from the first one's to the last one's."""
    if subset.weight_end is None or epochs < 2:
        return subset.weight
    done = min(1.0, epoch / (epochs - 1))
    return subset.weight + done * (subset.weight_end - subset.weight)


def _refuse_shared_folders(sources: Sequence[RegularizationSource]) -> None:
    for path, times in Counter(source.path.resolve() for source in sources).items():
        if times > 1:
            raise ConfigError(
                f"the regularization images in {path} are named {times} times",
                hint="name them once in regularization, for all folders, or give each folder a path of its own",
            )


def _words(subset: Subset) -> list[str]:
    """Split what a folder's name says behind its number; a name without one says nothing, and its class text counts."""
    numbered = re.fullmatch(r"\d+_(.*)", subset.path.resolve().name, re.DOTALL)
    own_text = "" if subset.is_regularization else subset.class_text
    return (numbered[1] if numbered else own_text).casefold().split()


def _is_paired(instance: Subset, words: list[str]) -> bool:
    own_class = instance.options.class_word.casefold().split()
    return _ends_with(_words(instance), words) or _ends_with(own_class, words)


def _ends_with(words: list[str], ending: list[str]) -> bool:
    return bool(ending) and words[-len(ending) :] == ending
