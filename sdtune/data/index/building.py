"""The data set as it was found: every image with its size, digest and caption, checked before anything is loaded."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from sdtune.data.captions.prompts import fill_template
from sdtune.data.captions.sources import (
    FolderCaptions,
    check_options,
    choose_sources,
    folder_templates,
    read_captions,
)
from sdtune.data.captions.stand_ins import CAPTION_OR_CLASS, class_text
from sdtune.data.captions.treating import Rules, word_once
from sdtune.data.digests import DIGEST_BYTES
from sdtune.data.index.bad_images import leave_out_bad, tell_cut_off
from sdtune.data.index.header_notes import HeaderNotes, check_is_single, is_unusual
from sdtune.data.index.mask_files import find_masks
from sdtune.data.index.notes import check_stems, describe_copies, describe_ignored
from sdtune.data.index.regularization import adopt, class_options, instances_of
from sdtune.data.index.scan import Scan
from sdtune.data.order.pool import visits_of
from sdtune.data.pictures.images import decode
from sdtune.data.sources.folders import find_folders
from sdtune.data.sources.listing import Files, suffix_of
from sdtune.data.sources.tree import has_entries
from sdtune.data.tables.blobs import TextColumn
from sdtune.data.tables.columns import ChoiceColumn, chunked
from sdtune.data.tables.records import ImageTable
from sdtune.data.types import Subset
from sdtune.errors import DataError, Problems
from sdtune.paths import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.index.regularization import RegularizationSource
    from sdtune.data.index.scan import Scanned
    from sdtune.data.index.scan_memory import Pictures
    from sdtune.data.pictures.images import ImageHeader
    from sdtune.data.sources.folders import Folder
    from sdtune.data.tables.records import MaskColumn
    from sdtune.data.types import ImageRecord, Size

MIN_SIDE_PX = 16
MAX_ASPECT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIndex:
    """A data set.

    Attributes:
        subsets: Its folders, those with regularization images last.
        images: All images, folder by folder, in natural order of their file names; the columns of a table.
        notes: What a user should know: what was found, where captions came from, what was ignored.
        digest: BLAKE2b-128 (hex) of names, files, captions, masks, repeats and weights: equal when training data is.
    """

    subsets: tuple[Subset, ...]
    images: ImageTable
    notes: tuple[str, ...]
    digest: str

    @property
    def instances(self) -> ImageTable:
        """The images of what is learned."""
        return instances_of(self.images)

    @property
    def regularization(self) -> ImageTable:
        """The images of its class."""
        return self.images.select(self.images.is_regularization)

    @property
    def visits(self) -> int:
        """Visits of instance images in an epoch."""
        counts = self.images.subsets.counts()
        return sum(visits_of(own.repeats, count) for own, count in counts.items() if not own.is_regularization)


def build_index(
    options: DataOptions,
    regularization: Sequence[RegularizationSource] = (),
    reserved: Mapping[Path, str] | None = None,
) -> DataIndex:
    """Find and check a data set. Reads every file once for its digest, but decodes no pixels (`verify_pixels` does).

    Args:
        options: The images of what is learned.
        regularization: Where the images of its class are; a folder that drawn images will go to may be missing.
        reserved: Other folders that are not trained on, and what they are for, should they lie among the images.

    Raises:
        ConfigError: Options that contradict each other.
        DataError: Folders, images or captions that cannot be trained on; independent problems together.
    """
    scan = Scan(cache_folder(options.cache.dir) / "scan", options.workers)
    apart = {**(reserved or {}), **{source.path: "regularization images" for source in regularization}}
    index = own = _read(options, scan, reserved=apart)
    for source in regularization:
        if not source.per_image or has_entries(source.path):
            index = _join(index, _read_regularization(source, own.subsets, options, scan))
    return replace(index, digest=digest_images(index.images))


def _read(
    options: DataOptions, scan: Scan, source: str | None = None, reserved: Mapping[Path, str] | None = None
) -> DataIndex:
    """Read one data set; its digest is left open.

    Args:
        options: Where it is.
        scan: Reads files.
        source: Where captions come from, of all that are in no list of images; None: as the options say.
        reserved: Folders that are not part of it.
    """
    check_options(options)
    folders, folder_notes = find_folders(options, reserved)
    if options.bad_images == "skip":
        folders, left_out = leave_out_bad(folders)
        folder_notes += left_out
    problems = Problems(DataError)
    with problems.collect():
        sources = _same_source(folders, source) if source else choose_sources(folders, options)
    notes = list(folder_notes)
    kinds = HeaderNotes()
    scanned = [_scan_folder(folder, scan, kinds, problems) for folder in folders]
    if any(found.errors for found in scanned):
        for folder, found in zip(folders, scanned, strict=True):
            tell_cut_off(Files.of(folder.listing.images).take(found.rows), problems)
    notes += kinds.lines()
    problems.raise_if_any()
    check_stems(folders, sources, notes, problems)
    with problems.collect():
        captions, caption_notes = read_captions(folders, sources, options, scan)
    with problems.collect():
        masks, mask_notes = find_masks(folders, options, scan, [found.pictures.sizes for found in scanned])
    problems.raise_if_any()
    images = ImageTable.join(
        [
            _tabulate(folder, _subset(folder, source, options), found.pictures, texts, own)
            for folder, source, found, texts, own in zip(folders, sources, scanned, captions, masks, strict=True)
        ]
    )
    notes = [*notes, *caption_notes, *mask_notes, *describe_ignored(folders), *describe_copies(images)]
    return DataIndex(subsets=images.subsets.choices, images=images, notes=tuple(notes), digest="")


def _same_source(folders: Sequence[Folder], source: str) -> tuple[str, ...]:
    return tuple("json" if folder.options.captions == "json" else source for folder in folders)


def _tabulate(
    folder: Folder, subset: Subset, pictures: Pictures, captions: FolderCaptions, masks: MaskColumn
) -> ImageTable:
    rules = Rules.of(subset)
    files = Files.of(folder.listing.images)
    table = ImageTable(
        {
            "path": files.paths,
            "name": TextColumn.of(folder.prefix + name for name in files.names),
            "size": pictures.sizes,
            "digest": pictures.digests,
            "caption": TextColumn.of(word_once(text, rules) for text in captions.texts)
            if rules.words_at_once
            else captions.texts,
            "subset": ChoiceColumn([subset], np.zeros(len(files), np.int32)),
            "mask": masks,
        }
    )
    return table if captions.is_kept.all() else table.select(captions.is_kept)


def _read_regularization(
    source: RegularizationSource, instances: Sequence[Subset], options: DataOptions, scan: Scan
) -> DataIndex:
    """Read a place with regularization images; its names tell them from the subject's."""
    prompt = None if source.prompt is None else fill_template(source.prompt, "")
    found = _read(class_options(options, source.path, prompt), scan, CAPTION_OR_CLASS)
    adopted, lost = adopt(source, found.subsets, instances)
    places = [(name, prefix, subset) for name, places in adopted.items() for prefix, subset in places]
    images = [_rename(found.images.of_subset(name), prefix, subset) for name, prefix, subset in places]
    notes = [f"regularization: {note}" for note in (*found.notes, *lost)]
    return DataIndex(
        subsets=tuple(subset for *_, subset in places),
        images=ImageTable.join(images).map_captions(source.name_class),
        notes=tuple(notes),
        digest="",
    )


def _rename(images: ImageTable, prefix: str, subset: Subset) -> ImageTable:
    """Give the images of one folder to another."""
    names = TextColumn.of(prefix + name for name in images.names)
    return images.replace({"name": names, "subset": images.subsets.map(lambda _: subset)})


def _join(first: DataIndex, second: DataIndex) -> DataIndex:
    return DataIndex(
        subsets=(*first.subsets, *second.subsets),
        images=ImageTable.join([first.images, second.images]),
        notes=(*first.notes, *second.notes),
        digest="",
    )


def verify_pixels(images: Iterable[ImageRecord]) -> None:
    """Decode every image once, for a run that has no cache to fill before its first step.

    Raises:
        DataError: All images that are cut off or damaged.
    """
    problems = Problems(DataError)
    for record in images:
        with problems.collect():
            decode(record.path)
    problems.raise_if_any()


def _subset(folder: Folder, source: str, options: DataOptions) -> Subset:
    return Subset(
        name=folder.name,
        path=folder.path,
        repeats=folder.repeats,
        class_text=class_text(folder, options),
        weight=folder.own.weight if folder.own else 1.0,
        caption_source=source,
        options=folder.options,
        batch_size=folder.own.batch_size if folder.own else None,
        templates=folder_templates(folder),
    )


def _scan_folder(folder: Folder, scan: Scan, kinds: HeaderNotes, problems: Problems) -> Scanned:
    """Read the headers and digests of a folder's images."""
    images = Files.of(folder.listing.images)
    found = scan.read_images(images)
    for error in found.errors.values():
        with problems.collect():
            raise error
    short, long = found.pictures.sizes.array.min(axis=1), found.pictures.sizes.array.max(axis=1)
    for place in np.flatnonzero((short < MIN_SIDE_PX) | (long > MAX_ASPECT * short)).tolist():
        with problems.collect():
            _refuse_shape(images[found.rows[place]], found.pictures.sizes[place])
    for row, header in _unusual(images, found, folder.options):
        if folder.options.animated == "refuse":
            with problems.collect():
                check_is_single(images[row], header)
        kinds.add(images.names[row], header, folder.options)
    return found


def _unusual(images: Files, found: Scanned, options: DataOptions) -> Iterator[tuple[int, ImageHeader]]:
    """List the images of which there is something to tell; most are of few kinds, of which there is nothing."""
    rows, kinds = found.rows.tolist(), found.pictures.kinds
    known = list(zip(kinds.numbers.tolist(), map(suffix_of, images.take(found.rows).names), strict=True))
    first: dict[tuple[int, str], int] = {}
    for place, pair in enumerate(known):
        first.setdefault(pair, place)
    told = {pair for pair, place in first.items() if is_unusual(pair[1], found.pictures.header(place), options)}
    for place in (place for place, pair in enumerate(known) if pair in told) if told else ():
        yield rows[place], found.pictures.header(place)


def _refuse_shape(path: Path, size: Size) -> NoReturn:
    if min(size) < MIN_SIDE_PX:
        raise DataError(f"image {path} is too small: {size}", hint=f"sides start at {MIN_SIDE_PX} px; remove it")
    raise DataError(f"image {path} is too narrow: {size}", hint="crop or remove it")


def digest_images(images: ImageTable) -> str:
    """Hash everything about images that training depends on: BLAKE2b-128, hex."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    ends = {own.name: _describe_subset(own) for own in images.subsets.choices}
    rows = zip(images.names, images.digests, images.captions, images.subsets, images.masks, strict=True)
    for chunk in chunked(rows):
        texts = [
            f"({name!r}, {content!r}, {caption!r}, {ends[subset.name][0]}{f', {mask.digest!r}' if mask else ''}"
            f"{ends[subset.name][1]})"
            for name, content, caption, subset, mask in chunk
        ]
        digest.update("".join(texts).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _describe_subset(subset: Subset) -> tuple[str, str]:
    """Give what an image's folder adds to the digest, before and behind its mask."""
    repeats = int(subset.repeats) if subset.repeats % 1 == 0 else subset.repeats
    prior = (subset.weight_end, subset.pairs_with) if subset.is_regularization else ()
    own = ", ".join(map(repr, (repeats, subset.weight, *prior)))
    return own, f", {subset.templates!r}" if subset.templates else ""
