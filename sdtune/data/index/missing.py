"""Regularization images that are wanted and not there yet: how many, of which size, by which prompt."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdtune.data.captions.prompts import fill_template
from sdtune.data.captions.treating import example_captions
from sdtune.data.index.regularization import adopt
from sdtune.data.tables.records import ImageTable, PlacementTable
from sdtune.data.types import ImageRecord, Placement, Size, Subset
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sdtune.data.index.building import DataIndex
    from sdtune.data.index.regularization import RegularizationSource


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingImage:
    """An image to be drawn.

    Attributes:
        path: Where it goes; its prompt goes beside it, into a `.txt`.
        prompt: What it shows.
        size: Its size, a bucket's.
        number: Counts the images of a folder: the offset of its seed.
    """

    path: Path
    prompt: str
    size: Size
    number: int


def find_missing(
    source: RegularizationSource, index: DataIndex, placements: Sequence[Placement]
) -> tuple[MissingImage, ...]:
    """List what a source lacks: `per_image` for each image of its subject, of that image's prompt and bucket.

    Images that are there with a prompt count, whatever their size: what is drawn goes to the buckets that lack most.

    Raises:
        ConfigError: The source has sub-folders, so it is not clear where images go.
    """
    if not source.per_image:
        return ()
    wanted: dict[str, Counter[Size]] = {}
    found: dict[str, Counter[Size]] = {}
    seen, paths = set(), set()
    images, buckets = index.images, PlacementTable.of(placements).buckets
    rows = zip(images.paths, images.subsets, example_captions(images), buckets, strict=True)
    for row, (path, subset, caption, bucket) in enumerate(rows):
        if path in seen:
            continue  # at another resolution
        seen.add(path)
        if not subset.is_regularization:
            if source.is_for(subset):
                wanted.setdefault(_prompt(source, caption), Counter())[bucket] += source.per_image
        elif images.names[row].startswith(source.prefix) and path.is_relative_to(source.path):
            found.setdefault(images.captions[row], Counter())[bucket] += 1
            paths.add(path)
    _check_flat(source, paths)
    free = _free_numbers({path.stem for path in paths})
    return tuple(
        MissingImage(path=source.path / f"{number:05d}.png", prompt=prompt, size=size, number=number)
        for prompt, counts in wanted.items()
        for size, number in zip(_lacking(counts, found.get(prompt, Counter())), free, strict=False)
    )


def with_planned(
    index: DataIndex, placements: Sequence[Placement], source: RegularizationSource, missing: Sequence[MissingImage]
) -> tuple[DataIndex, PlacementTable]:
    """Add images to be drawn as if they were there, so that a run can be planned; they have no digest."""
    planned = Subset(
        name=source.path.resolve().name,
        path=source.path,
        repeats=1,
        class_text=source.prompt or "",
        weight=source.weight,
        caption_source="txt",
    )
    adopted, _ = adopt(source, [planned], [own for own in index.subsets if not own.is_regularization])
    known = {own.name: own for own in index.subsets}
    (copies,) = adopted.values()
    images = ImageTable.of(
        ImageRecord(
            path=item.path,
            name=prefix + item.path.name,
            size=item.size,
            digest="",
            caption=item.prompt,
            subset=known.get(subset.name, subset),
        )
        for prefix, subset in copies
        for item in missing
    )
    own_size = PlacementTable.of(Placement(bucket=size, resized=size, left=0, top=0) for size in images.column("size"))
    subsets = (*index.subsets, *(subset for _, subset in copies if subset.name not in known))
    joined = replace(index, subsets=subsets, images=ImageTable.join([index.images, images]))
    return joined, PlacementTable.join([PlacementTable.of(placements), own_size])


def _prompt(source: RegularizationSource, caption: str) -> str:
    """Give the prompt of the class images that go with an image."""
    return source.name_class(fill_template(source.prompt, caption))


def _check_flat(source: RegularizationSource, paths: set[Path]) -> None:
    deeper = sorted(str(path.parent) for path in paths if path.parent != source.path)
    if deeper:
        raise ConfigError(
            f"images are to be drawn into {source.path}, which has folders of its own: {deeper[0]}",
            hint="name one of them as the path, or a new folder",
        )


def _lacking(wanted: Counter[Size], found: Counter[Size]) -> list[Size]:
    """List the sizes to draw: as many as are wanted in all and not there, where most are lacking first."""
    lacks = wanted - found
    sizes = [size for size in sorted(lacks) for _ in range(lacks[size])]
    sizes.sort(key=lambda size: -lacks[size])
    return sizes[: max(0, wanted.total() - found.total())]


def _free_numbers(taken: set[str]) -> Iterator[int]:
    number = 0
    while True:
        if f"{number:05d}" not in taken:
            yield number
        number += 1
