"""Find the caption of each image: in a file beside it, in a JSON map, or what stands in for one by choice."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdtune.config.data import settle
from sdtune.data.captions.files import MOST_FILE_BYTES, clean_caption, plain_line, read_caption, use_lines
from sdtune.data.captions.stand_ins import CAPTION_OR_CLASS, CHOOSE, FILES, replace_missing, stand_in_for
from sdtune.data.captions.tables import captions_by_name
from sdtune.data.captions.templates import placeholders, read_templates
from sdtune.data.captions.treating import needs_caption
from sdtune.data.sources.listing import CAPTION_SUFFIXES, Files, shorten, stem_of
from sdtune.data.tables.blobs import TextColumn
from sdtune.errors import ConfigError, DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from sdtune.config.data import DataOptions
    from sdtune.data.index.scan import Scan, TextReader
    from sdtune.data.sources.folders import Folder

    Read = Callable[[str, list[str]], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderCaptions:
    """Captions of a folder's images.

    Attributes:
        texts: Of each of them, in order; empty where there is none.
        is_kept: (N,) bool: false for images that `missing_captions: skip` leaves out.
    """

    texts: TextColumn
    is_kept: NDArray[np.bool_]


def choose_sources(folders: Sequence[Folder], options: DataOptions) -> tuple[str, ...]:
    """Settle each folder's caption source; `auto` looks at the caption files of all folders that leave it open.

    Raises:
        DataError: No caption files where the source is `auto`, or a file of templates that cannot be read.
    """
    wanted = [_wanted(folder) for folder in folders]
    open_folders = [folder for folder, source in zip(folders, wanted, strict=True) if source == "auto"]
    found = iter(_detect(open_folders) if open_folders else ())
    return tuple(next(found) if source == "auto" else source for source in wanted)


def check_options(options: DataOptions) -> None:
    """Refuse caption options that contradict each other.

    Raises:
        ConfigError: `data.captions_json` without `json`, or the other way round.
    """
    settled = [settle(options, subset) for subset in options.subsets] or [options]
    wanted = {own.captions_json for own in settled if own.captions == "json"}
    given = {place for place in (options.captions_json, *(own.captions_json for own in settled)) if place is not None}
    if wanted != given:
        raise ConfigError(
            "data.captions=json and data.captions_json belong together", hint="set both, or neither of them"
        )


def read_captions(
    folders: Sequence[Folder], sources: Sequence[str], options: DataOptions, scan: Scan
) -> tuple[list[FolderCaptions], list[str]]:
    """Read the caption of every image.

    Args:
        folders: The images.
        sources: Where the captions of each folder come from.
        options: Options of all folders.
        scan: Reads files.

    Returns:
        Captions of each folder, and notes for the user.

    Raises:
        DataError: Captions that are missing, empty, too long or not Unicode: all of them together.
    """
    captions: list[FolderCaptions] = []
    notes: list[str] = []
    problems = Problems(DataError)
    table = captions_by_name([folder for folder, source in zip(folders, sources, strict=True) if source == "json"])
    for folder, source in zip(folders, sources, strict=True):
        with problems.collect(), scan.texts(folder.listing.captions, MOST_FILE_BYTES) as read:
            files = _Files(folder=folder, source=source, read=read)
            found = _caption_folder(files, options, table, notes)
            notes += _describe_unknown(folder, found.values())
            names = Files.of(folder.listing.images).names
            captions.append(
                FolderCaptions(
                    texts=TextColumn.of(found.get(name, "") for name in names),
                    is_kept=np.fromiter((name in found for name in names), np.bool_),
                )
            )
    problems.raise_if_any()
    return captions, [*_describe_unused(folders, sources, options), *notes]


def folder_templates(folder: Folder) -> tuple[str, ...]:
    """Read the templates of a folder, if it has any.

    Raises:
        DataError: The file cannot be read, or has a line that needs a token and there is none.
    """
    own = folder.options
    if own.templates is None:
        return ()
    lines = read_templates(own.templates)
    nameless = [line for line in lines if "[name]" in line and not own.token and "name" not in own.words]
    if nameless:
        raise DataError(
            f"{own.templates}: [name] stands for data.token, which is not set: {shorten(nameless)}",
            hint="set data.token, e.g. zwx",
        )
    return lines


def _wanted(folder: Folder) -> str:
    return folder.options.captions if needs_caption(folder.options, folder_templates(folder)) else "prompt"


def _detect(folders: Sequence[Folder]) -> list[str]:
    """Name the source of each of these folders by the caption files beside its images."""
    kinds = [[suffix for suffix in CAPTION_SUFFIXES if _count_captioned(folder, suffix)] for folder in folders]
    if any(kinds):
        return [own[0][1:] if len(own) == 1 else "mixed" for own in kinds]
    sources = [folder.options.missing_captions for folder in folders]
    if {"error", "skip"} & set(sources):
        total = sum(len(folder.listing.images) for folder in folders)
        names = shorten([str(folder.path) for folder in folders])
        raise DataError(f"captions: 0 of {total} images in {names} have a .txt or .caption file", hint=CHOOSE)
    return list(sources)


def _count_captioned(folder: Folder, suffix: str) -> int:
    files = folder.listing.captions[suffix]
    return sum(stem in files for stem in Files.of(folder.listing.images).stems()) if files else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """The caption files of a folder, and what reads them."""

    folder: Folder
    source: str
    read: TextReader

    def suffixes(self, image: str) -> list[str]:
        """List the suffixes of the files that hold an image's caption: none, one, or both."""
        stem, listed = stem_of(image), self.folder.listing.captions
        return [suffix for suffix in FILES[self.source] if stem in listed[suffix]]

    def caption(self, suffix: str, image: str, notes: list[str]) -> str:
        """Read one of them."""
        stem = stem_of(image)
        data = self.read(suffix, stem) or b""
        return plain_line(data) or read_caption(data, self.read.path(suffix, stem), notes)


def _caption_folder(files: _Files, options: DataOptions, table: Mapping[str, str], notes: list[str]) -> dict[str, str]:
    """Read the captions of one folder, by the names of its images; what is missing gets what its options say."""
    folder, source = files.folder, files.source
    images = Files.of(folder.listing.images).names
    if source not in FILES and source != "json":
        stand_in = stand_in_for(folder, source, options)
        return {image: stand_in(image) for image in images}
    problems = Problems(DataError)
    if source == "mixed":
        _refuse_differing(files, problems)
    read = _reader(files, table)
    captions: dict[str, str] = {}
    missing = []
    for image in images:
        with problems.collect():
            caption = read(image, notes)
            if caption is None:
                missing.append(image)
            else:
                captions[image] = caption
    if missing:
        with problems.collect():
            captions |= replace_missing(folder, missing, source, options, notes)
    problems.raise_if_any()
    notes += _describe_files(folder, source, captions)
    rule = folder.options.caption_lines
    return {image: use_lines(text, rule) if "\n" in text else text for image, text in captions.items()}


def _reader(files: _Files, table: Mapping[str, str]) -> Read:
    """Give the function that finds one image's caption in this folder; None stands for a missing one."""
    folder = files.folder
    takes_empty = folder.options.missing_captions != "error"
    if files.source == "json":
        table = {name: text for name, text in table.items() if text.strip()} if takes_empty else table
        return lambda image, notes: _look_up(table, folder.prefix + image, notes)

    def read(image: str, notes: list[str]) -> str | None:
        stem = stem_of(image)
        for suffix in FILES[files.source]:
            if (data := files.read(suffix, stem)) is not None:
                caption = plain_line(data) or read_caption(data, path := files.read.path(suffix, stem), notes)
                if caption or takes_empty:
                    return caption or None
                return clean_caption(caption, str(path), notes)
        return None

    return read


def _refuse_differing(files: _Files, problems: Problems) -> None:
    """Refuse images with two caption files that do not say the same."""
    images = Files.of(files.folder.listing.images).names
    names = [image for image in images if len(files.suffixes(image)) > 1 and _differ(files, image)]
    if names:
        problems.add(
            f"{len(names)} images in {files.folder.path} have a .txt and a .caption that differ: {shorten(names)}",
            hint="remove one of them, or choose data.captions=txt or =caption",
        )


def _differ(files: _Files, image: str) -> bool:
    with suppress(DataError):  # told where it is read
        return len({files.caption(suffix, image, []) for suffix in files.suffixes(image)}) > 1
    return False


def _describe_unknown(folder: Folder, captions: Iterable[str]) -> list[str]:
    """Name placeholders that no word stands for, where placeholders are filled."""
    own = folder.options
    lines = folder_templates(folder)
    texts = (*lines, *((own.prompt or "", own.prefix, own.suffix, *captions) if own.words else ()))
    unknown = {name for text in texts for name in placeholders(text)} - {"name", "class", *own.words}
    unknown -= {"caption"} if lines else set()
    names = shorten([f"{{{name}}}" for name in sorted(unknown)])
    return [f"no word for {names} in {folder.path}, so nothing stands there: see data.words"] if unknown else []


def _describe_files(folder: Folder, source: str, captions: Mapping[str, str]) -> list[str]:
    """Tell of several lines of which one is used, and of both kinds of caption files."""
    notes = []
    several = sum("\n" in caption for caption in captions.values())
    if several and folder.options.caption_lines == "first":
        notes.append(f"{several} captions in {folder.path} have several lines, the first is used (data.caption_lines)")
    if source == "mixed" and all(counts := [_count_captioned(folder, suffix) for suffix in CAPTION_SUFFIXES]):
        numbers = " and ".join(f"{count} {suffix}" for count, suffix in zip(counts, CAPTION_SUFFIXES, strict=True))
        notes.append(f"captions in {folder.path}: {numbers} files, both are read")
    return notes


def _look_up(table: Mapping[str, str], name: str, notes: list[str]) -> str | None:
    text = table.get(name)
    return None if text is None else clean_caption(text, f"data.captions_json for {name}", notes)


def _describe_unused(folders: Sequence[Folder], sources: Sequence[str], options: DataOptions) -> list[str]:
    uses = {*sources, *(folder.options.missing_captions for folder in folders)}
    is_unused = options.class_text is not None and not uses & {"class_text", CAPTION_OR_CLASS}
    return ["data.class_text is in no caption: that takes data.captions=class_text"] if is_unused else []
