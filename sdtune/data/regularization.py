"""Regularization images: pictures of the subject's class, which keep the class what it was (prior preservation)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.config.objective import MaskOptions
from sdtune.data.prompts import class_text_of
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sdtune.config.data import DataOptions
    from sdtune.config.regularization import RegularizationOptions
    from sdtune.config.subsets import SubsetOptions
    from sdtune.data.types import ImageRecord, Subset

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


def find_sources(
    options: RegularizationOptions,
    subsets: Sequence[SubsetOptions] = (),
    folder_for: Callable[[str], Path] = Path,
    *,
    token: str = "",
    class_word: str = "",
) -> tuple[RegularizationSource, ...]:
    """List the places with regularization images, of all and of single training folders.

    Args:
        options: Those of all.
        subsets: Training folders, which may have their own.
        folder_for: Gives the folder for images drawn by a prompt, where no path is given.
        token: What calls the subject, in folders that have no word of their own.
        class_word: What it is, likewise.

    Raises:
        ConfigError: Two of them are one folder.
    """
    places: list[tuple[str, Path | None, str | None, int, SubsetOptions | None]] = [
        (PREFIX, options.path, options.prompt, options.generate.per_image, None)
    ]
    for number, subset in enumerate(subsets, start=1):
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
            token=_own(subset.token if subset else None, token),
            class_word=_own(subset.class_word if subset else None, class_word),
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


def find_pairs(
    folders: Sequence[Subset], instances: Sequence[Subset], belongs_to: Path | None = None
) -> list[tuple[str, ...]]:
    """Pair regularization folders with training folders: with the one they belong to, or by name.

    `1_dog` pairs with `10_zwx dog` and `5_dog`: the training folder's words end with its own. If one of the folders
    pairs with none, they belong to all training folders together.

    Returns:
        For each folder the names of its training folders; empty: all.
    """
    if belongs_to is not None:
        return [tuple(own.name for own in instances if own.path == belongs_to)] * len(folders)
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


def _own(word: str | None, common: str) -> str:
    return common if word is None else word


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


def _ends_with(words: list[str], ending: list[str]) -> bool:
    return bool(ending) and words[-len(ending) :] == ending
