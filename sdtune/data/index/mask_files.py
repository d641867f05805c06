"""Find the mask of each image: a picture of the same name in a folder of masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.index.scan import read_image
from sdtune.data.pictures.images import read_levels
from sdtune.data.sources.listing import list_folder, shorten
from sdtune.data.tables.records import MaskColumn, MaskTable
from sdtune.data.types import MaskFile
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdtune.config.data import DataOptions
    from sdtune.data.index.scan import Scan, Scanned
    from sdtune.data.sources.folders import Folder
    from sdtune.data.sources.listing import Files
    from sdtune.data.tables.columns import SizeColumn
    from sdtune.data.types import Size

_LOOKED_AT = 500  # masks of a folder at most, for its notes; a mask of a megapixel takes 5 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class _MaskFolder:
    path: Path
    files: Files
    scanned: Scanned
    rows: dict[str, list[int]]

    @classmethod
    def read(cls, path: Path, scan: Scan) -> _MaskFolder:
        if not path.is_dir():
            raise DataError(f"no folder {path}", hint="masks are looked for there; check data.mask.dir and mask_dir")
        files = list_folder(path, path.resolve()).images
        rows: dict[str, list[int]] = {}
        for row, stem in enumerate(files.stems()):
            rows.setdefault(stem, []).append(row)
        return cls(path=path, files=files, scanned=scan.read_images(files), rows=rows)


def find_masks(
    folders: Sequence[Folder], options: DataOptions, scan: Scan, sizes: Sequence[SizeColumn]
) -> tuple[list[MaskColumn], list[str]]:
    """Find the masks of all images.

    Args:
        folders: The images.
        options: `mask.dir`, and the `mask_dir` of single folders, which goes before.
        scan: Reads files.
        sizes: Sizes of the images of each folder.

    Returns:
        Masks of each folder's images, in their order, and notes for the user.

    Raises:
        DataError: A folder of masks is missing or fits no image; a mask of another size than its image, or that two
            images would share: all of them together.
    """
    columns: list[MaskColumn] = []
    notes: list[str] = []
    problems = Problems(DataError)
    read: dict[Path, _MaskFolder] = {}
    times: Counter[tuple[Path, int]] = Counter()
    for folder, own in zip(folders, sizes, strict=True):
        if folder.listed and folder.listed.masks:
            with problems.collect():
                columns.append(_listed(folder.listing.images, folder.listed.masks, own))
            continue
        if (place := _mask_folder(folder, options)) is None:
            columns.append(MaskColumn.of([None] * len(own)))
            continue
        with problems.collect():
            masks = read.get(place) or read.setdefault(place, _MaskFolder.read(place, scan))
            found = _match(folder, masks)
            notes += _describe(folder, masks, found)
            times.update((place, row) for row in found[found >= 0].tolist())
            _check_sizes(folder, own, masks, found, problems)
            columns.append(_column(masks, found))
    for (place, row), count in times.items():
        if count > 1:
            problems.add(
                f"mask {read[place].files[row]} fits {count} images",
                hint="sort the masks into folders named as those of the images, or give mask_dir in data.subsets",
            )
    problems.raise_if_any()
    return columns, notes


def _listed(images: Files, masks: Mapping[Path, Path], sizes: SizeColumn) -> MaskColumn:
    """Read the masks that a list of images names."""
    problems, found = Problems(DataError), list[MaskFile | None]()
    for row, image in enumerate(images):
        mask = masks.get(image)
        with problems.collect():
            found.append(None if mask is None else _read_mask(mask, sizes[row], image))
    problems.raise_if_any()
    return MaskColumn.of(found)


def _read_mask(path: Path, size: Size, image: Path) -> MaskFile:
    header, digest = read_image(path)
    if header.size != size:
        raise DataError(f"mask {path} has {header.size} px, its image {size}", hint=f"make it as large as {image.name}")
    return MaskFile(path=path, digest=digest)


def _mask_folder(folder: Folder, options: DataOptions) -> Path | None:
    if folder.own is not None and folder.own.mask_dir is not None:
        return folder.own.mask_dir
    if options.mask.dir is None:
        return None
    own = options.mask.dir / folder.path.resolve().name
    return own if own.is_dir() else options.mask.dir


def _match(folder: Folder, masks: _MaskFolder) -> NDArray[np.int64]:
    """Find the mask of each image: its row among the files, -1 for none."""
    images = folder.listing.images
    rows = np.fromiter((masks.rows.get(stem, [-1])[0] for stem in images.stems()), np.int64)
    if not (rows >= 0).any():
        raise DataError(
            f"no mask in {masks.path} is named as an image in {folder.path}",
            hint="the mask of dog.jpg is dog.png there",
        )
    doubled = [
        name for name, stem in zip(images.names, images.stems(), strict=True) if len(masks.rows.get(stem, ())) > 1
    ]
    if doubled:
        raise DataError(f"several masks in {masks.path} fit {shorten(doubled)}", hint="keep one of each")
    return rows


def _describe(folder: Folder, masks: _MaskFolder, found: NDArray[np.int64]) -> list[str]:
    """Tell how many masks there are, how much of a picture they show, and which show nothing."""
    without = [folder.listing.images.names[row] for row in np.flatnonzero(found < 0).tolist()]
    rest = f"; without one, counted as a whole: {shorten(without)}" if without else ""
    rows = found[(found >= 0) & (_places(masks, found) >= 0)]
    count = "1 mask" if len(rows) == 1 else f"{len(rows)} masks"
    levels = {masks.files[row]: read_levels(masks.files[row]) for row in rows[:: max(1, -(-len(rows) // _LOOKED_AT))]}
    share = sum(mean for mean, _, _ in levels.values()) / max(1, len(levels))
    sample = f" ({len(levels)} looked at)" if len(levels) < len(rows) else ""
    notes = [f"{folder.name}: {count} from {masks.path.name}, {share:.0%} white on average{sample}{rest}"]
    even = [f"{mask.name} ({_name_level(low)})" for mask, (_, low, high) in levels.items() if low == high]
    if even:
        effect = "they count as no mask" if folder.options.mask.normalise else "they weigh the whole picture"
        notes.append(f"{folder.name}: masks that are the same everywhere, {effect}: {shorten(even)}")
    return notes


def _name_level(level: int) -> str:
    return {0: "all black", 255: "all white"}.get(level, "all gray")


def _check_sizes(
    folder: Folder, sizes: SizeColumn, masks: _MaskFolder, found: NDArray[np.int64], problems: Problems
) -> None:
    places = _places(masks, found)
    for row in found[(found >= 0) & (places < 0)].tolist():
        with problems.collect():
            raise masks.scanned.errors[row]
    own = masks.scanned.pictures.sizes
    differs = (sizes.array != own.array[places]).any(axis=1) if len(own) else np.zeros(len(found), dtype=np.bool_)
    for row in np.flatnonzero(differs & (places >= 0)).tolist():
        image = folder.listing.images.names[row]
        problems.add(
            f"mask {masks.files[found[row]]} has {own[places[row]]} px, its image {sizes[row]}",
            hint=f"make it as large as {image}",
        )


def _places(masks: _MaskFolder, found: NDArray[np.int64]) -> NDArray[np.int32]:
    """Give the place of each mask among those that could be read; -1 for none."""
    places = np.full(len(masks.files) + 1, -1, np.int32)  # the last one stands for none
    places[masks.scanned.rows] = np.arange(len(masks.scanned.rows))
    return places[found]


def _column(masks: _MaskFolder, found: NDArray[np.int64]) -> MaskColumn:
    paths = masks.files.take(masks.scanned.rows).paths
    return MaskColumn(_places(masks, found), MaskTable({"path": paths, "digest": masks.scanned.pictures.digests}))
