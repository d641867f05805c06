"""Look at a data set: every folder and file of it, and what a run would make of them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from sdtune.data.buckets.placing import place_images
from sdtune.data.buckets.report import report_buckets
from sdtune.data.check.memory import open_memory
from sdtune.data.check.reading import read_caption, read_image, read_mask
from sdtune.data.check.survey import RunFacts, SeenFolder, SeenImage, Survey
from sdtune.data.check.tokens import EstimatedTokens
from sdtune.data.check.walking import walk
from sdtune.data.index.building import MIN_SIDE_PX, build_index
from sdtune.data.index.regularization import find_sources
from sdtune.data.index.split import hold_out
from sdtune.data.sources.listing import IMAGE_SUFFIXES, stem_key
from sdtune.data.types import ImageRecord, Size, Subset
from sdtune.errors import SdtuneError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.config.schema import CoreOptions
    from sdtune.data.buckets.report import BucketReport
    from sdtune.data.check.memory import Memory
    from sdtune.data.check.survey import Role, SeenCaption, TokenCounter
    from sdtune.data.check.walking import FolderFiles

_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)
_REGULARIZATION = re.compile(r"(\d+_)?reg(s|ulari[sz]ation)?([ _-].*)?", re.IGNORECASE | re.DOTALL)
_FROM_FILES = frozenset({"auto", "txt", "caption", "mixed", "caption_or_class"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reading:
    """What a run reads: nothing where it would refuse to start."""

    records: Mapping[Path, ImageRecord] = field(default_factory=dict)
    measured: frozenset[Path] = frozenset()
    buckets: BucketReport | None = None
    refusal: SdtuneError | None = None


def look(options: CoreOptions, run: RunFacts, on_image: Callable[[Path], None] = lambda path: None) -> Survey:
    """Look at all images and captions of a run; nothing that is broken stops it.

    Args:
        options: Options of the run; a resolution is given.
        run: What else is known of it.
        on_image: Called with each image before it is read.

    Raises:
        SdtuneError: There is no folder to look at: none was named, or the file that lists the images cannot be read.
    """
    data = options.data
    reading = _read_as_a_run(options)
    roots = list(_roots(options, reading))
    if not roots and reading.refusal is not None:
        raise reading.refusal
    with open_memory(data.cache.dir) as memory:
        look = partial(_see, reading=reading, options=data, memory=memory, on_image=on_image)
        folders = [look(files, role, root) for root, role in roots for files in _folders(root, options)]
        known = {image.path for folder in folders for image in folder.images}
        folders += _listed([record for path, record in reading.records.items() if path not in known], memory)
    buckets = _guess_buckets(folders, options) if reading.refusal else reading.buckets
    refusals = reading.refusal.problems if reading.refusal else ()
    top = data.path or roots[0][0]
    return Survey(root=top, options=data, folders=tuple(folders), run=run, buckets=buckets, refusals=refusals)


def run_facts(options: CoreOptions, tokens: TokenCounter | None = None) -> RunFacts:
    """Gather what options say of a run.

    Args:
        options: Options with a resolution.
        tokens: Counts tokens, as the base model does; None: they are estimated.
    """
    train = options.train
    return RunFacts(
        size=Size(*options.data.size_px),
        batch_size=train.batch_size,
        epochs=train.epochs,
        visits=None if train.steps is None else train.steps * train.batch_size * train.gradient_accumulation,
        tokens=tokens or EstimatedTokens(options.model.chunks),
        is_estimate=tokens is None,
    )


def _read_as_a_run(options: CoreOptions) -> _Reading:
    try:
        sources = find_sources(options.regularization, options.data)
        index, held_out = hold_out(build_index(options.data, sources), options.data, options.validation)
        buckets = _report(index.images, options)
    except SdtuneError as error:
        return _Reading(refusal=error)
    held = held_out.index.images if held_out is not None else ()
    return _Reading(
        records={record.path: record for images in (index.images, held) for record in images},
        measured=frozenset(record.path for record in held),
        buckets=buckets,
    )


def _report(images: Sequence[ImageRecord], options: CoreOptions) -> BucketReport:
    placements = place_images(images, options.data)
    return report_buckets(images, placements, options.data, batch_size=options.train.batch_size)


def _roots(options: CoreOptions, reading: _Reading) -> Iterator[tuple[Path, Role]]:
    """Give the folders to look through, and what their images are for."""
    data = options.data
    if data.path is not None and data.path.is_dir():
        yield data.path, "training"
    else:
        trained = [record for path, record in reading.records.items() if path not in reading.measured]
        listed = [record.subset.path for record in trained if not record.subset.is_regularization]
        for path in dict.fromkeys([*(subset.path for subset in data.subsets), *listed]):
            yield path, "training"
    for source in find_sources(options.regularization, data):
        yield source.path, "regularization"
    if options.validation.path is not None:
        yield options.validation.path, "validation"


def _kept_apart(options: CoreOptions, root: Path) -> list[Path]:
    """List folders that lie in a root and are something else."""
    data = options.data
    places = [data.mask.dir, options.regularization.path, options.validation.path]
    places += [subset.mask_dir for subset in data.subsets]
    resolved = [place.resolve() for place in places if place is not None]
    return [place for place in resolved if place != root.resolve()]


def _folders(root: Path, options: CoreOptions) -> Iterator[FolderFiles]:
    """List the folders of a root that hold images or captions, and are nothing else."""
    apart = _kept_apart(options, root)
    for files in walk(root):
        is_apart = any(files.path.resolve().is_relative_to(place) for place in apart)
        if (files.images or files.captions or files.path == root) and not is_apart:
            yield files


def _see(
    files: FolderFiles,
    role: Role,
    root: Path,
    *,
    reading: _Reading,
    options: DataOptions,
    memory: Memory,
    on_image: Callable[[Path], None],
) -> SeenFolder:
    """Read a folder's files, and bring together what is known of each image."""
    captions = tuple(read_caption(path) for path in files.captions)
    records = [reading.records[path] for path in files.images if path in reading.records]
    subset = records[0].subset if records else None
    source = subset.caption_source if subset else options.captions
    by_stem = _chosen_captions(captions) if source in _FROM_FILES else {}
    own_files = _files_by_image(files)
    if subset is not None and subset.is_regularization:
        role = "regularization"
    images = []
    for path in files.images:
        on_image(path)
        seen = read_image(path, "validation" if path in reading.measured else role, root.resolve(), memory)
        images.append(replace(_joined(seen, reading, by_stem, options), caption_files=own_files[path]))
    name = _NUMBERED.fullmatch(files.path.resolve().name)
    is_reg = any(_REGULARIZATION.fullmatch(part) for part in files.path.relative_to(root).parts)
    is_inside = is_reg and role == "training" and not records
    return SeenFolder(
        path=files.path,
        role="regularization" if is_inside else role,
        images=tuple(images),
        captions=captions,
        others=files.others,
        repeats=subset.repeats if subset else float(name[1]) if name else 1.0,
        class_text=subset.class_text if subset else name[2].strip() if name else "",
        caption_source=source,
        is_read=bool(records) or (not reading.records and bool(images)),
        is_inside=is_inside,
        is_paired=subset is None or bool(subset.pairs_with),
    )


def _listed(records: Iterable[ImageRecord], memory: Memory) -> list[SeenFolder]:
    """Bring together images that lie in none of the folders: in an archive, or named by a list."""
    by_subset: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        by_subset[record.subset.name].append(record)
    folders = []
    for own in by_subset.values():
        subset, images = own[0].subset, []
        role: Role = "regularization" if subset.is_regularization else "training"
        for record in own:
            plain = SeenImage(path=record.path, role=role, size=record.size, digest=record.digest)
            seen = read_image(record.path, role, record.path.parent, memory) if record.path.is_file() else plain
            images.append(replace(seen, caption=record.caption))
        folders.append(
            SeenFolder(
                path=subset.path,
                role=role,
                images=tuple(images),
                repeats=subset.repeats,
                class_text=subset.class_text,
                caption_source=subset.caption_source,
                is_paired=bool(subset.pairs_with),
            )
        )
    return folders


def _files_by_image(files: FolderFiles) -> dict[Path, tuple[Path, ...]]:
    """Give the caption files of each image that no other image shares."""
    times = Counter(stem_key(path) for path in files.images)
    by_stem = defaultdict(list)
    for path in files.captions:
        by_stem[stem_key(path)].append(path)
    stems = {path: stem_key(path) for path in files.images}
    return {path: tuple(by_stem[stem]) if times[stem] == 1 else () for path, stem in stems.items()}


def _joined(seen: SeenImage, reading: _Reading, by_stem: Mapping[str, SeenCaption], options: DataOptions) -> SeenImage:
    """Add what the run knows of an image; where it refuses to start, what lies beside it."""
    record = reading.records.get(seen.path)
    if record is not None:
        mask, caption = record.mask.path if record.mask else None, record.caption
        return replace(seen, caption=caption, mask=read_mask(mask) if mask else None)
    mask, own = _mask_beside(seen.path, options), by_stem.get(stem_key(seen.path))
    text = first_line(own.text) if own and own.text else None
    return replace(seen, caption=text, mask=read_mask(mask) if mask else None)


def _guess_buckets(folders: Sequence[SeenFolder], options: CoreOptions) -> BucketReport | None:
    """Place what can be placed of images that a run refuses, so that one look tells all."""
    records = [
        ImageRecord(path=image.path, name=str(image.path), size=image.size, digest="", caption="", subset=subset)
        for folder in folders
        if folder.is_read
        for subset in [_subset(folder, options.data)]
        for image in folder.images
        if image.size and min(image.size) >= MIN_SIDE_PX
    ]
    try:
        return _report(records, options)
    except SdtuneError:
        return None


def _subset(folder: SeenFolder, options: DataOptions) -> Subset:
    return Subset(
        name=str(folder.path),
        path=folder.path,
        repeats=folder.repeats,
        class_text=folder.class_text,
        weight=1.0,
        caption_source=folder.caption_source,
        options=options,
    )


def _mask_beside(image: Path, options: DataOptions) -> Path | None:
    """Find an image's mask by its name, where a run could not be asked."""
    if options.mask.dir is None:
        return None
    places = (options.mask.dir / image.parent.resolve().name, options.mask.dir)
    names = (f"{image.stem}{suffix}" for suffix in sorted(IMAGE_SUFFIXES))
    return next((place / name for name in names for place in places if (place / name).is_file()), None)


def _chosen_captions(captions: tuple[SeenCaption, ...]) -> dict[str, SeenCaption]:
    """Give the caption files of the more frequent suffix by stem."""
    suffixes = Counter(caption.path.suffix.lower() for caption in captions)
    if not suffixes:
        return {}
    usual = suffixes.most_common(1)[0][0]
    return {stem_key(caption.path): caption for caption in captions if caption.path.suffix.lower() == usual}


def first_line(text: str) -> str:
    """Give the first line of a caption that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
