"""What stands in for captions: the class text, a name, nothing, or an error that says what there is to choose."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

from sdtune.data.captions.files import clean_caption
from sdtune.data.sources.listing import CAPTION_SUFFIXES, shorten, stem_of
from sdtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sdtune.config.data import DataOptions
    from sdtune.data.sources.folders import Folder

CAPTION_OR_CLASS = "caption_or_class"  # of regularization images: a caption file where there is one, else the class
FILES: Mapping[str, tuple[str, ...]] = {
    "txt": (".txt",),
    "caption": (".caption",),
    "mixed": CAPTION_SUFFIXES,
    CAPTION_OR_CLASS: CAPTION_SUFFIXES,
}
"""Sources that are files beside the images, and their suffixes."""

CHOOSE = (
    'write them, or choose data.captions=class_text data.class_text="photo of a dog" (one caption for all), '
    "data.captions=filename (the file's name), or data.captions=empty (none)"
)
_CHOOSE_SOME = "write them, or choose data.missing_captions=filename, class_text, folder, empty or skip"
_CHOOSE_PROMPT = 'write them, or set regularization.prompt="a photo of a dog"'
_TOLD = {
    "class_text": "the class text is used",
    "filename": "the file's name is used",
    "folder": "the folder's name is used",
    "empty": "trained without one",
    "skip": "left out",
}


def class_text(folder: Folder, options: DataOptions) -> str:
    """Settle a folder's class text: its own option, then `data.class_text`, then the folder's name after `N_`."""
    own = folder.own.class_text if folder.own else None
    return next(text for text in (own, options.class_text, folder.class_text) if text is not None).strip()


def stand_in_for(folder: Folder, source: str, options: DataOptions) -> Callable[[str], str]:
    """Give the function that makes up an image's caption."""
    if source == "class_text":
        return _constant(class_text(folder, options), folder)
    if source == "folder":
        return _constant((folder.class_text or folder.path.resolve().name).replace("_", " ").strip(), folder)
    if source == "filename":
        return lambda image: clean_caption(PurePath(image).stem.replace("_", " "), image, [])
    return lambda image: ""


def replace_missing(
    folder: Folder, missing: Sequence[str], source: str, options: DataOptions, notes: list[str]
) -> dict[str, str]:
    """Give what stands in for captions that are missing, as `missing_captions` says."""
    rule, count = folder.options.missing_captions, len(folder.listing.images)
    if source == CAPTION_OR_CLASS:
        rule = "class_text" if class_text(folder, options) else "error"
    elif rule != "error":
        notes.append(f"{len(missing)} of {count} images in {folder.path} have no caption: {_TOLD[rule]}")
    if rule == "error":
        raise _missing_error(folder, missing, source)
    if rule == "skip":
        if len(missing) == count:
            raise DataError(f"no image in {folder.path} has a caption, all are left out", hint=CHOOSE)
        return {}
    stand_in = stand_in_for(folder, rule, options)
    return {image: stand_in(image) for image in missing}


def _missing_error(folder: Folder, missing: Sequence[str], source: str) -> DataError:
    """Tell what is missing, and of files of the other suffix that are there instead."""
    names, count = shorten([folder.prefix + image for image in missing]), len(folder.listing.images)
    others = [suffix for suffix in CAPTION_SUFFIXES if suffix not in FILES.get(source, CAPTION_SUFFIXES)]
    found = {suffix: sum(stem_of(image) in folder.listing.captions[suffix] for image in missing) for suffix in others}
    message = f"no caption for {len(missing)} of {count} images in {folder.path}: {names}"
    for suffix, number in found.items():
        if number:
            hint = f"choose data.captions={suffix[1:]}, or auto for both kinds"
            return DataError(f"{message}; found {number} {suffix}, and data.captions is {source}", hint=hint)
    hint = _CHOOSE_PROMPT if source == CAPTION_OR_CLASS else CHOOSE if len(missing) == count else _CHOOSE_SOME
    return DataError(message, hint=hint)


def _constant(text: str, folder: Folder) -> Callable[[str], str]:
    if not text:
        raise DataError(
            f"{folder.path} has no class text", hint='set data.class_text="photo of a dog", or name it N_dog'
        )
    return lambda image: text
