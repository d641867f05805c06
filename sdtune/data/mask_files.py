"""Find the mask of each image: a picture of the same name in a folder of masks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sdtune.data.images import read_header, read_levels
from sdtune.data.listing import list_folder, shorten, stem_key
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.folders import Folder
    from sdtune.data.types import Size

_LOOKED_AT = 500  # masks of a folder at most, for its notes; a mask of a megapixel takes 5 ms


def find_masks(
    folders: Sequence[Folder], options: DataOptions, sizes: Mapping[Path, Size]
) -> tuple[dict[Path, Path], list[str]]:
    """Find the masks of all images; images without one are left out.

    Args:
        folders: The images.
        options: `mask.dir`, and the `mask_dir` of single folders, which goes before.
        sizes: Size of each image.

    Returns:
        Image file to mask file, and notes for the user.

    Raises:
        DataError: A folder of masks is missing or fits no image; a mask of another size than its image, or that two
            images would share: all of them together.
    """
    masks: dict[Path, Path] = {}
    notes: list[str] = []
    problems = Problems(DataError)
    for folder in folders:
        if (place := _mask_folder(folder, options)) is not None:
            with problems.collect():
                found = _match(folder, place)
                masks |= found
                notes += _describe(folder, place, found)
    for image, mask in masks.items():
        with problems.collect():
            _check_size(image, sizes[image], mask)
    for mask, times in Counter(masks.values()).items():
        if times > 1:
            problems.add(
                f"mask {mask} fits {times} images",
                hint="sort the masks into folders named as those of the images, or give mask_dir in data.subsets",
            )
    problems.raise_if_any()
    return masks, notes


def _mask_folder(folder: Folder, options: DataOptions) -> Path | None:
    if folder.own is not None and folder.own.mask_dir is not None:
        return folder.own.mask_dir
    if options.mask.dir is None:
        return None
    own = options.mask.dir / folder.path.resolve().name
    return own if own.is_dir() else options.mask.dir


def _match(folder: Folder, place: Path) -> dict[Path, Path]:
    if not place.is_dir():
        raise DataError(f"no folder {place}", hint="masks are looked for there; check data.mask.dir and mask_dir")
    by_stem: dict[str, list[Path]] = {}
    for path in list_folder(place, place.resolve()).images:
        by_stem.setdefault(stem_key(path), []).append(path)
    found = {image: by_stem[stem_key(image)] for image in folder.listing.images if stem_key(image) in by_stem}
    if not found:
        raise DataError(
            f"no mask in {place} is named as an image in {folder.path}", hint="the mask of dog.jpg is dog.png there"
        )
    if doubles := [image.name for image, paths in found.items() if len(paths) > 1]:
        raise DataError(f"several masks in {place} fit {shorten(doubles)}", hint="keep one of each")
    return {image: paths[0] for image, paths in found.items()}


def _describe(folder: Folder, place: Path, found: Mapping[Path, Path]) -> list[str]:
    without = [image.name for image in folder.listing.images if image not in found]
    rest = f"; without one, counted as a whole: {shorten(without)}" if without else ""
    count = "1 mask" if len(found) == 1 else f"{len(found)} masks"
    looked_at = list(found.values())[:: -(-len(found) // _LOOKED_AT)]
    levels = {mask: read_levels(mask) for mask in looked_at}
    share = sum(mean for mean, _, _ in levels.values()) / len(levels)
    sample = f" ({len(levels)} looked at)" if len(levels) < len(found) else ""
    notes = [f"{folder.name}: {count} from {place.name}, {share:.0%} white on average{sample}{rest}"]
    even = [f"{mask.name} ({_name_level(low)})" for mask, (_, low, high) in levels.items() if low == high]
    if even:
        effect = "they count as no mask" if folder.options.mask.normalise else "they weigh the whole picture"
        notes.append(f"{folder.name}: masks that are the same everywhere, {effect}: {shorten(even)}")
    return notes


def _name_level(level: int) -> str:
    return {0: "all black", 255: "all white"}.get(level, "all gray")


def _check_size(image: Path, size: Size, mask: Path) -> None:
    found = read_header(mask).size
    if found != size:
        raise DataError(f"mask {mask} has {found} px, its image {size}", hint=f"make it as large as {image.name}")
