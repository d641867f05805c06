"""Checks of pictures that are alike, and of names that are."""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING

from sdtune.data.check import kinds
from sdtune.data.check.files import free_name, leave_out
from sdtune.data.check.finding import Finding
from sdtune.data.check.pictures import near_duplicates
from sdtune.data.sources.listing import stem_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdtune.data.check.survey import Role, SeenFolder, SeenImage, Survey

_ROLES = ("training", "validation", "regularization")
_CAPTIONED_BY_FILE = frozenset({"auto", "txt", "caption", "mixed"})


def exact_duplicates(survey: Survey) -> Iterator[Finding]:
    """Find files that are there twice, of one role; the one with a caption stays."""
    groups: dict[tuple[Role, str], list[SeenImage]] = defaultdict(list)
    for image in _each_file_once(survey):
        if image.digest:
            groups[image.role, image.digest].append(image)
    for first, *rest in groups.values():
        for image in rest:
            yield Finding(
                kind=kinds.EXACT_DUPLICATE,
                place=str(image.path),
                message=f"the same file as {_told(first, image)}",
                remedy="leave one of them out",
                script=leave_out(image),
            )


def like_pictures(survey: Survey) -> Iterator[Finding]:
    """Find pictures that are almost the same: in one role, or in two that must not share any."""
    seen = [(image, image.facts) for image in _best_first(survey) if image.facts is not None]
    for group in near_duplicates([facts for _, facts in seen]):
        first, *rest = [seen[place][0] for place in group]
        for image in rest:
            if image.role != first.role or image.digest != first.digest:
                yield _alike(first, image)


def _best_first(survey: Survey) -> list[SeenImage]:
    """List images, those first that stay where two are alike: of the subject, with a caption, of more pixels."""
    return sorted(survey.images, key=_worth)


def _each_file_once(survey: Survey) -> list[SeenImage]:
    """List them without those that stand there again at another resolution."""
    found: dict[Path, SeenImage] = {}
    for image in _best_first(survey):
        found.setdefault(image.path, image)
    return list(found.values())


def _worth(image: SeenImage) -> tuple[int, bool, int]:
    return _ROLES.index(image.role), image.caption is None, -math.prod(image.size or (0,))


def _alike(first: SeenImage, second: SeenImage) -> Finding:
    kind, remedy = (
        {
            "validation": (kinds.LEAK, "keep such pictures on one side"),
            "regularization": (kinds.SUBJECT_IN_REG, "leave it out: class images show others of its kind"),
        }[second.role]
        if first.role != second.role
        else (kinds.NEAR_DUPLICATE, "leave one of them out")
    )
    like = "the same file as" if first.digest == second.digest else "almost the same picture as"
    return Finding(
        kind=kind,
        place=str(second.path),
        message=f"{like} {_told(first, second)}",
        remedy=remedy,
        script=leave_out(second),
    )


def same_stems(survey: Survey) -> Iterator[Finding]:
    """Find pictures that would share a caption file."""
    for folder in survey.folders:
        by_stem: dict[str, SeenImage] = {}
        for image in folder.images if folder.caption_source in _CAPTIONED_BY_FILE else ():
            first = by_stem.setdefault(stem_key(image.path), image)
            if first is image:
                continue
            new = free_name(folder, image.path.with_stem(f"{image.path.stem}-{image.path.suffix[1:].lower()}"))
            copies = [(str(path), str(new.with_suffix(path.suffix))) for path in _captions(folder, image)]
            yield Finding(
                kind=kinds.SAME_STEM,
                place=str(image.path),
                message=f"shares its caption file with {_told(first, image)}",
                remedy="rename one of them, and give it a caption of its own",
                script=("part", str(image.path), str(new), *(word for pair in copies for word in pair)),
            )


def case_names(survey: Survey) -> Iterator[Finding]:
    """Find names that differ in upper and lower case, or in how an accent is written, only."""
    for folder in survey.folders:
        by_name = defaultdict(list)
        for image in folder.images:
            by_name[unicodedata.normalize("NFC", image.path.name).casefold()].append(image)
        for first, *rest in by_name.values():
            for image in rest:
                new = free_name(folder, image.path)
                moved = [(image.path, new)]
                moved += [(path, new.with_suffix(path.suffix)) for path in image.caption_files]
                yield Finding(
                    kind=kinds.CASE_NAMES,
                    place=str(image.path),
                    message=f"differs from {_told(first, image)} in upper and lower case only",
                    remedy=f"rename it to {new.name}",
                    script=("rename", *(str(path) for pair in moved for path in pair)),
                )


def _captions(folder: SeenFolder, image: SeenImage) -> list[Path]:
    return [caption.path for caption in folder.captions if stem_key(caption.path) == stem_key(image.path)]


def _told(other: SeenImage, beside: SeenImage) -> str:
    """Name another image: by its file name if it lies beside."""
    return other.path.name if other.path.parent == beside.path.parent else str(other.path)
