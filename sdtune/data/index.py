"""The data set as it was found: every image with its size, digest and caption, checked before anything is loaded."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdtune.config.data import DataOptions
from sdtune.data.bad_images import leave_out_bad, tell_cut_off
from sdtune.data.caption_sources import CAPTION_OR_CLASS, check_options, choose_sources, class_text, read_captions
from sdtune.data.folders import find_folders, has_entries
from sdtune.data.header_notes import HeaderNotes, check_is_single
from sdtune.data.images import decode, read_header
from sdtune.data.listing import CAPTION_SUFFIXES, shorten, stem_key
from sdtune.data.mask_files import find_masks
from sdtune.data.prompts import fill_template, instance_text
from sdtune.data.regularization import find_pairs, instances_of
from sdtune.data.types import ImageRecord, MaskFile, Subset
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdtune.data.folders import Folder
    from sdtune.data.images import ImageHeader
    from sdtune.data.regularization import RegularizationSource

MIN_SIDE_PX = 16
MAX_ASPECT = 16
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIndex:
    """A data set.

    Attributes:
        subsets: Its folders, those with regularization images last.
        images: All images, folder by folder, in natural order of their file names.
        notes: What a user should know: what was found, where captions came from, what was ignored.
        digest: BLAKE2b-128 (hex) of names, files, captions, masks, repeats and weights: equal when training data is.
    """

    subsets: tuple[Subset, ...]
    images: Sequence[ImageRecord]
    notes: tuple[str, ...]
    digest: str

    @property
    def instances(self) -> tuple[ImageRecord, ...]:
        """The images of what is learned."""
        return instances_of(self.images)

    @property
    def regularization(self) -> tuple[ImageRecord, ...]:
        """The images of its class."""
        return tuple(image for image in self.images if image.subset.is_regularization)

    @property
    def visits(self) -> int:
        """Visits of instance images in an epoch."""
        return sum(round(record.subset.repeats) for record in self.instances)


def build_index(options: DataOptions, regularization: Sequence[RegularizationSource] = ()) -> DataIndex:
    """Find and check a data set. Reads every file once for its digest, but decodes no pixels (`verify_pixels` does).

    Args:
        options: The images of what is learned.
        regularization: Where the images of its class are; a folder that drawn images will go to may be missing.

    Raises:
        ConfigError: Options that contradict each other.
        DataError: Folders, images or captions that cannot be trained on; independent problems together.
    """
    index = _read(options)
    own = index.subsets
    for source in regularization:
        if not source.per_image or has_entries(source.path):
            index = _join(index, _read_regularization(source, own))
    return index


def _read(options: DataOptions, source: str | None = None) -> DataIndex:
    """Read one data set.

    Args:
        options: Where it is.
        source: Where all captions come from; None: as the options say.
    """
    check_options(options)
    folders, folder_notes = find_folders(options)
    if options.bad_images == "skip":
        folders, left_out = leave_out_bad(folders)
        folder_notes += left_out
    problems = Problems(DataError)
    with problems.collect():
        sources = (source,) * len(folders) if source else choose_sources(folders, options)
    notes = [*_describe_unnumbered(folders), *folder_notes]
    headers = _read_headers(folders, problems, notes)
    problems.raise_if_any()
    _check_stems(folders, sources, notes, problems)
    with problems.collect():
        captions, caption_notes = read_captions(folders, sources, options)
    with problems.collect():
        masks, mask_notes = find_masks(folders, options, {path: header.size for path, header in headers.items()})
    problems.raise_if_any()
    subsets = tuple(_subset(folder, source, options) for folder, source in zip(folders, sources, strict=True))
    images = tuple(
        ImageRecord(
            path=path,
            name=folder.prefix + path.name,
            size=headers[path].size,
            digest=file_digest(path),
            caption=_worded(captions[path], folder.options),
            subset=subset,
            mask=MaskFile(path=masks[path], digest=file_digest(masks[path])) if path in masks else None,
        )
        for folder, subset in zip(folders, subsets, strict=True)
        for path in folder.listing.images
    )
    notes = [*notes, *caption_notes, *mask_notes, *_describe_ignored(folders), *_describe_copies(images)]
    return DataIndex(subsets=subsets, images=images, notes=tuple(notes), digest=digest_images(images))


def _worded(caption: str, options: DataOptions) -> str:
    """Put a caption into its folder's prompt, and name the subject in it."""
    if options.prompt is None and not options.token:
        return caption
    return instance_text(fill_template(options.prompt, caption), options.token, options.class_word)


def _read_regularization(source: RegularizationSource, instances: Sequence[Subset]) -> DataIndex:
    """Read a place with regularization images; its names tell them from the subject's."""
    prompt = None if source.prompt is None else fill_template(source.prompt, "")
    found = _read(DataOptions(path=source.path, class_text=prompt), CAPTION_OR_CLASS)
    flagged = [replace(subset, is_regularization=True) for subset in found.subsets]
    subsets = {
        subset.name: replace(
            subset,
            name=source.prefix + subset.name,
            weight=source.weight,
            weight_end=source.weight_end,
            pairs_with=pairs,
        )
        for subset, pairs in zip(flagged, find_pairs(flagged, instances, source.belongs_to), strict=True)
    }
    images = [
        replace(
            image,
            name=source.prefix + image.name,
            caption=source.name_class(image.caption),
            subset=subsets[image.subset.name],
        )
        for image in found.images
    ]
    notes = [f"regularization: {note}" for note in found.notes]
    return DataIndex(subsets=tuple(subsets.values()), images=tuple(images), notes=tuple(notes), digest="")


def _join(first: DataIndex, second: DataIndex) -> DataIndex:
    images = (*first.images, *second.images)
    return DataIndex(
        subsets=(*first.subsets, *second.subsets),
        images=images,
        notes=(*first.notes, *second.notes),
        digest=digest_images(images),
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


def file_digest(path: Path) -> str:
    """Hash a file's bytes: BLAKE2b-128, hex.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def bytes_digest(data: bytes) -> str:
    """Hash bytes as `file_digest` hashes a file's."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


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
    )


def _read_headers(folders: Sequence[Folder], problems: Problems, notes: list[str]) -> dict[Path, ImageHeader]:
    headers, kinds = {}, HeaderNotes()
    for path, own in ((path, folder.options) for folder in folders for path in folder.listing.images):
        with problems.collect():
            header = headers[path] = read_header(path)
            _check_shape(path, header)
            if own.animated == "refuse":
                check_is_single(path, header)
            kinds.add(path, header, own)
    if len(headers) < sum(len(folder.listing.images) for folder in folders):
        tell_cut_off(headers, problems)
    notes += kinds.lines()
    return headers


def _check_shape(path: Path, header: ImageHeader) -> None:
    if min(header.size) < MIN_SIDE_PX:
        raise DataError(f"image {path} is too small: {header.size}", hint=f"sides start at {MIN_SIDE_PX} px; remove it")
    if max(header.size) > MAX_ASPECT * min(header.size):
        raise DataError(f"image {path} is too narrow: {header.size}", hint="crop or remove it")


def _check_stems(folders: Sequence[Folder], sources: Sequence[str], notes: list[str], problems: Problems) -> None:
    """Refuse two images that would share one caption file; tell of names that differ in case only."""
    for folder, source in zip(folders, sources, strict=True):
        by_stem = defaultdict(list)
        for path in folder.listing.images:
            by_stem[stem_key(path)].append(path.name)
        for names in by_stem.values():
            if len(names) > 1 and source in ("txt", "caption"):
                problems.add(
                    f"{' and '.join(names)} in {folder.path} would share one caption file", hint="rename or remove one"
                )
        cases = Counter(unicodedata.normalize("NFC", path.name).casefold() for path in folder.listing.images)
        notes += [f"{folder.name}: {name} stands there in {n} spellings" for name, n in cases.items() if n > 1]


def _describe_unnumbered(folders: Sequence[Folder]) -> list[str]:
    """Name folders among others whose repeats nobody chose."""
    return [
        f"{folder.name}: {len(folder.listing.images)} images, "
        f"repeats {folder.repeats:g} (no number in the folder's name)"
        for folder in folders
        if folder.prefix and not folder.is_numbered and not folder.own
    ]


def _describe_ignored(folders: Sequence[Folder]) -> list[str]:
    """Count what was left aside, by reason."""
    ignored: Counter[str] = Counter()
    for folder in folders:
        listing = folder.listing
        ignored += listing.ignored
        stems = {stem_key(path) for path in listing.images}
        for suffix in CAPTION_SUFFIXES:
            ignored[f"{suffix} without an image"] += len(listing.captions[suffix].keys() - stems)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(ignored.items()) if count)
    return [f"ignored files: {counts}"] if counts else []


def _describe_copies(images: Sequence[ImageRecord]) -> list[str]:
    by_digest = defaultdict(list)
    for record in images:
        by_digest[record.digest].append(record.name)
    return [f"the same picture: {shorten(names)}" for names in by_digest.values() if len(names) > 1]


def digest_images(images: Sequence[ImageRecord]) -> str:
    """Hash everything about images that training depends on: BLAKE2b-128, hex."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for record in images:
        fields = (record.name, record.digest, record.caption, record.subset.repeats, record.subset.weight)
        prior = (record.subset.weight_end, record.subset.pairs_with) if record.subset.is_regularization else ()
        mask = (record.mask.digest,) if record.mask else ()
        digest.update(repr((*fields, *prior, *mask)).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
