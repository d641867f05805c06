"""Checks of caption files: which are there, which can be read, and what of them is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.captions.length import lost_words
from sdtune.data.check import kinds
from sdtune.data.check.finding import Finding
from sdtune.data.sources.listing import CAPTION_SUFFIXES, stem_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdtune.data.check.survey import SeenFolder, SeenImage, Survey

FROM_FILES = frozenset({"auto", "txt", "caption", "mixed"})
LIKE_CAPTIONS = frozenset({".text", ".tags", ".tag", ".cap", ".captions", ".prompt", ".md", ".rtf"})
_CUT_CHARACTERS = 60


def missing_captions(survey: Survey) -> Iterator[Finding]:
    """Find images without a caption, in folders whose captions come from files."""
    for folder in _captioned_folders(survey):
        stray = {stem_key(path.with_suffix("")): path for path in folder.others if path.suffix.lower() in LIKE_CAPTIONS}
        doubled = _doubled_suffixes(folder)
        wanted = usual_suffix(folder)
        for image in folder.images:
            if image.caption is not None or any(path.suffix.lower() == wanted for path in image.caption_files):
                continue
            stem = stem_key(image.path)
            found = stray.get(stem) or doubled.get(image.path.name) or next(iter(image.caption_files), None)
            yield _misnamed(image, found, wanted) if found else _missing(image, wanted)


def _misnamed(image: SeenImage, found: Path, suffix: str) -> Finding:
    new = image.path.with_suffix(suffix)
    return Finding(
        kind=kinds.CAPTION_EXTENSION,
        place=str(found),
        message=f"is not read as the caption of {image.path.name}, which has no {suffix} file",
        remedy=f"rename it to {new.name}",
        script=("rename", str(found), str(new)),
    )


def _missing(image: SeenImage, suffix: str) -> Finding:
    return Finding(
        kind=kinds.MISSING_CAPTION,
        place=str(image.path),
        message=f"no {image.path.with_suffix(suffix).name} beside it",
        remedy='write it; or data.captions=class_text data.class_text="..." gives one caption to all, '
        "and data.missing_captions=skip leaves such images out",
    )


def mixed_captions(survey: Survey) -> Iterator[Finding]:
    """Find folders in which some captions are .txt and some are .caption."""
    for folder in survey.folders:
        if survey.options.captions != "auto" or folder.role != "training":
            continue
        stems = {stem_key(image.path) for image in folder.images}
        files = [caption.path for caption in folder.captions if stem_key(caption.path) in stems]
        counts = {suffix: [path for path in files if path.suffix.lower() == suffix] for suffix in CAPTION_SUFFIXES}
        if all(counts.values()):
            numbers = " and ".join(f"{len(paths)} {suffix}" for suffix, paths in counts.items())
            surplus = [str(path) for path in _surplus(folder, files)]
            yield Finding(
                kind=kinds.MIXED_CAPTIONS,
                place=str(folder.path),
                message=f"both kinds of caption files: {numbers}",
                remedy=f"choose data.captions={usual_suffix(folder)[1:]}, and rename or set aside the others",
                script=("set_aside", *surplus) if surplus else (),
            )


def empty_captions(survey: Survey) -> Iterator[Finding]:
    """Find caption files that say nothing."""
    for folder in _captioned_folders(survey):
        for caption in folder.captions:
            if caption.text is not None and not caption.text.strip():
                yield Finding(
                    kind=kinds.EMPTY_CAPTION,
                    place=str(caption.path),
                    message="empty",
                    remedy="write what the picture shows; data.captions=empty trains all images without words",
                )


def undecodable_captions(survey: Survey) -> Iterator[Finding]:
    """Find caption files in an encoding other than UTF-8, or too long."""
    for caption in (caption for folder in survey.folders for caption in folder.captions):
        if caption.text is None:
            yield Finding(
                kind=kinds.UNDECODABLE_CAPTION,
                place=str(caption.path),
                message=caption.fault,
                remedy="save it as UTF-8; the script takes it for Western (Windows-1252): look at it afterwards",
                script=("to_utf8", str(caption.path)),
            )


def orphan_captions(survey: Survey) -> Iterator[Finding]:
    """Find caption files without an image."""
    for folder in survey.folders:
        stems = {stem_key(image.path) for image in folder.images}
        names = {image.path.name for image in folder.images}
        for caption in folder.captions:
            if stem_key(caption.path) not in stems and caption.path.stem not in names and folder.images:
                yield Finding(
                    kind=kinds.ORPHAN_CAPTION,
                    place=str(caption.path),
                    message=f"no image is called {caption.path.stem}",
                    remedy="bring the image back, or rename one of both, or set the file aside",
                    script=("set_aside", str(caption.path)),
                )


def several_lines(survey: Survey) -> Iterator[Finding]:
    """Find captions of several lines, of which the first alone is used."""
    if survey.options.caption_lines != "first":
        return
    for folder in _captioned_folders(survey):
        for caption in folder.captions:
            lines = [line for line in (caption.text or "").splitlines() if line.strip()]
            if len(lines) > 1:
                yield Finding(
                    kind=kinds.SEVERAL_LINES,
                    place=str(caption.path),
                    message=f"{len(lines)} lines; not learned: {shown(' '.join(lines[1:]))}",
                    remedy="put all on one line; or data.caption_lines=all, or =draw for one at each visit",
                    script=("join_lines", str(caption.path)),
                )


def long_captions(survey: Survey) -> Iterator[Finding]:
    """Find captions of more tokens than are read, and say which words fall off."""
    tokens = survey.run.tokens
    for image in survey.images:
        caption = image.caption or ""
        if len(caption) > _CUT_CHARACTERS and (lost := tokens.count_cut(caption)):
            about = "about " if survey.run.is_estimate else ""
            rest = lost_words(caption, tokens.count_cut)
            yield Finding(
                kind=kinds.LONG_CAPTION,
                place=str(image.path),
                message=f"{about}{lost} of {tokens.count_tokens(caption)} tokens are cut off: {shown(rest)}",
                remedy="shorten it, put what matters first, or read more: model.chunks=2 (150 tokens) or 3 (225)",
            )


def shown(text: str) -> str:
    """Quote the beginning of a text."""
    return f"'{text[:_CUT_CHARACTERS]}...'" if len(text) > _CUT_CHARACTERS else f"'{text}'"


def usual_suffix(folder: SeenFolder) -> str:
    """Give the suffix of the captions that a run reads in a folder: as settled, or that of most of them."""
    if folder.caption_source in ("txt", "caption"):
        return f".{folder.caption_source}"
    stems = {stem_key(image.path) for image in folder.images}
    found = [c.path.suffix.lower() for c in folder.captions if stem_key(c.path) in stems]
    return max(CAPTION_SUFFIXES, key=lambda suffix: (found.count(suffix), suffix == ".txt"))


def _captioned_folders(survey: Survey) -> list[SeenFolder]:
    is_lenient = survey.options.missing_captions != "error"
    folders = [folder for folder in survey.read_folders() if folder.role != "regularization"]
    return [] if is_lenient else [folder for folder in folders if folder.caption_source in FROM_FILES]


def _doubled_suffixes(folder: SeenFolder) -> dict[str, Path]:
    """Find captions called as the whole image file, e.g. `01.jpg.txt`, by the image's name."""
    return {caption.path.stem: caption.path for caption in folder.captions}


def _surplus(folder: SeenFolder, files: list[Path]) -> list[Path]:
    """List the caption files of the rarer suffix whose image has one of the other, too."""
    usual = usual_suffix(folder)
    captioned = {stem_key(path) for path in files if path.suffix.lower() == usual}
    return [path for path in files if path.suffix.lower() != usual and stem_key(path) in captioned]
