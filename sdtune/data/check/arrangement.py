"""Checks of folders: what is read, how often, and which class images go with it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from sdtune.data.check import kinds
from sdtune.data.check.captions import LIKE_CAPTIONS
from sdtune.data.check.finding import Finding
from sdtune.data.sources.listing import UNREADABLE_SUFFIXES, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.data.check.survey import Survey

FEW_IMAGES, MANY_IMAGES = 10, 200
FEW_VISITS, MANY_VISITS = 20, 300
MOST_REPEATS = 150
UNEVEN = 10
_NUMBERED = re.compile(r"\d+_.*", re.DOTALL)


def no_images(survey: Survey) -> Iterator[Finding]:
    """Tell that there are no images, and where there are some."""
    if any(folder.images for folder in survey.folders if folder.role == "training"):
        return
    yield Finding(
        kind=kinds.NO_IMAGES,
        place=str(survey.root),
        message="no images here",
        remedy="check the path: give the folder with the images, or the one above folders called N_name",
    )


def regularization_inside(survey: Survey) -> Iterator[Finding]:
    """Find folders called `reg` among the folders of the subject."""
    for folder in survey.folders:
        if folder.is_inside and folder.images:
            out = survey.root.resolve().parent / f"{survey.root.resolve().name}-reg"
            yield Finding(
                kind=kinds.REG_INSIDE,
                place=str(folder.path),
                message=f"{len(folder.images)} images in a folder called {folder.path.name} inside the data",
                remedy=f"move it out, e.g. to {out}, and set regularization.path to that",
                script=("rename", str(folder.path), str(out)),
            )


def unread_folders(survey: Survey) -> Iterator[Finding]:
    """Find folders with images that are not read."""
    for folder in survey.folders:
        if folder.images and not folder.is_read and folder.role == "training":
            yield Finding(
                kind=kinds.UNREAD_FOLDER,
                place=str(folder.path),
                message=f"{len(folder.images)} images that are not read",
                remedy="move it up beside the others, or name it in data.subsets; if it is no data, move it out",
            )


def ignored_files(survey: Survey) -> Iterator[Finding]:
    """Tell of files that are neither images nor captions."""
    for folder in survey.folders:
        told = UNREADABLE_SUFFIXES | LIKE_CAPTIONS
        others = [path for path in folder.others if path.suffix.lower() not in told]
        if others:
            suffixes = Counter(path.suffix.lower() or "no suffix" for path in others)
            counts = ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common())
            yield Finding(
                kind=kinds.IGNORED_FILES,
                place=str(folder.path),
                message=f"{counts}: {shorten([path.name for path in others])}",
                remedy="nothing, if they are not meant to be learned",
            )


def leaf_folder(survey: Survey) -> Iterator[Finding]:
    """Tell that the folder given is a numbered one itself."""
    name = survey.root.resolve().name
    if _NUMBERED.fullmatch(name):
        yield Finding(
            kind=kinds.LEAF_FOLDER,
            place=str(survey.root),
            message=f"{name} is one folder of images; its number of repeats is used",
            remedy=f"give {survey.root.resolve().parent} to other programs, and to read the folders beside it too",
        )


def image_count(survey: Survey) -> Iterator[Finding]:
    """Say whether there are as many images as is usual."""
    count = survey.images_in_all or len(survey.images_for("training"))
    if 0 < count < FEW_IMAGES or count > MANY_IMAGES:
        yield Finding(
            kind=kinds.IMAGE_COUNT,
            place=str(survey.root),
            message=f"{count} images",
            remedy="more pictures, and as unlike as can be, help more than more steps"
            if count < FEW_IMAGES
            else "fine for a style; of one subject, the best 50 do as well",
        )


def repeats(survey: Survey) -> Iterator[Finding]:
    """Judge repeats of folders, by themselves and among each other."""
    folders = [folder for folder in survey.read_folders("training") if folder.images]
    if survey.images_in_all is not None:
        return
    for folder in folders:
        if folder.repeats > MOST_REPEATS:
            yield Finding(
                kind=kinds.REPEATS,
                place=str(folder.path),
                message=f"{folder.repeats:g} repeats of {len(folder.images)} images = "
                f"{folder.repeats * len(folder.images):g} visits an epoch",
                remedy="5 to 40 repeats are usual; use more epochs instead, so that each can be looked at",
            )
    seen = sorted((folder.repeats * len(folder.images), folder.path) for folder in folders)
    if seen and seen[-1][0] > UNEVEN * seen[0][0]:
        (least, place), (most, other) = seen[0], seen[-1]
        yield Finding(
            kind=kinds.UNEVEN_FOLDERS,
            place=str(place),
            message=f"{least:g} visits an epoch, {other.name} has {most:g}",
            remedy="change the repeats in the folders' names, so that each subject is seen about as often",
        )


def run_length(survey: Survey) -> Iterator[Finding]:
    """Judge how often a run sees each image."""
    folders = [folder for folder in survey.read_folders("training") if folder.images]
    an_epoch = sum(folder.repeats * len(folder.images) for folder in folders)
    run = survey.run
    epochs = run.epochs if run.visits is None else run.visits / an_epoch if an_epoch else None
    if epochs is None or not folders or survey.images_in_all:
        return
    seen = sorted({folder.repeats * epochs for folder in folders})
    if seen[0] < FEW_VISITS or seen[-1] > MANY_VISITS:
        times = " to ".join(f"{count:.3g}" for count in dict.fromkeys([seen[0], seen[-1]]))
        yield Finding(
            kind=kinds.RUN_LENGTH,
            place=str(survey.root),
            message=f"each image is seen {times} times",
            remedy="change train.epochs or train.steps, and look at previews to find the best epoch",
        )


def class_images(survey: Survey) -> Iterator[Finding]:
    """Judge regularization images: do they belong to a folder, and are they enough."""
    folders = [folder for folder in survey.read_folders("regularization") if folder.images]
    for folder in folders:
        if not folder.is_paired and _NUMBERED.fullmatch(folder.path.resolve().name):
            yield Finding(
                kind=kinds.UNPAIRED_REG,
                place=str(folder.path),
                message=f"{folder.path.name} is called as no training folder is",
                remedy="name it after its class: reg/1_dog goes with img/10_zwx dog",
            )
    count, own = len(survey.images_for("regularization")), len(survey.images_for("training"))
    if folders and 0 < count < own and survey.images_in_all is None:
        yield Finding(
            kind=kinds.FEW_REG,
            place=str(folders[0].path),
            message=f"{count} class images for {own} of the subject",
            remedy="add some, up to 200; or regularization.generate.per_image=2 draws what is missing",
        )


def masks(survey: Survey) -> Iterator[Finding]:
    """Judge masks: are they there, do they fit, do they say anything."""
    images = survey.images_for("training")
    has_masks = any(image.mask for image in images)
    for image in images:
        if image.mask is None:
            if has_masks:
                yield Finding(
                    kind=kinds.MASK_MISSING,
                    place=str(image.path),
                    message="it has no mask, others have",
                    remedy=f"draw one of {image.size} px, white where the picture counts",
                )
        elif image.mask.size != image.size:
            yield Finding(
                kind=kinds.MASK_SIZE,
                place=str(image.mask.path),
                message=f"{image.mask.size or 'cannot be read'}, its image is {image.size} px",
                remedy="make it as large as its image",
            )
        elif image.mask.is_flat:
            yield Finding(
                kind=kinds.MASK_EMPTY,
                place=str(image.mask.path),
                message="the same everywhere",
                remedy="paint white what counts, black what does not",
            )


def refusals(survey: Survey) -> Iterator[Finding]:
    """Tell what else a run would refuse."""
    for problem in survey.refusals:
        yield Finding(
            kind=kinds.REFUSED,
            place=problem.where or str(survey.root),
            message=problem.message,
            remedy=problem.hint or "mend it",
        )
