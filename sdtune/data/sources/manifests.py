"""A file that lists images, taken for a data set: a manifest (.jsonl, .parquet), or kohya's metadata (.json)."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sdtune.data.sources.image_lists import ListedImage, name_key, read_list, without_suffix
from sdtune.data.sources.listing import Listing, list_folder, natural_key, shorten
from sdtune.data.sources.tree import Listed, Place, Tree
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray


class _Group(NamedTuple):
    """What images have in common that make one folder of the data set."""

    repeats: float | None
    weight: float | None


def read_manifest(path: Path) -> Tree:
    """Find the images that a file lists: one place for each folder, and in it for each number of repeats and weight.

    Names are relative to the file's own folder, which they may not lead out of, or absolute. An image may be named
    without its suffix, as kohya's tools do.

    Raises:
        DataError: It is no such list; images that are not there, or could be several: all of them together.
        PlatformError: Parquet, and pyarrow is not installed.
    """
    table, problems = read_list(path, where="data.path"), Problems(DataError)
    rows = defaultdict[Path, list[ListedImage]](list)
    for row in table.images:
        with problems.collect():
            rows[_locate(row.name, path).parent].append(row)
    places, beside, missing = list[Place](), Counter[Path](), list[str]()
    for folder in sorted(rows, key=lambda folder: natural_key(str(folder))):
        with problems.collect():
            listing = _list(folder, path)
            found = _match(rows[folder], listing)
            missing += [row.name for row in rows[folder] if row.name not in found]
            places += _group(rows[folder], found, folder, listing, path)
            beside[folder] = len(listing.images) - len(found)
    if missing:
        problems.add(f"{path} names {len(missing)} images that are not there: {shorten(missing)}", hint="mend the list")
    problems.raise_if_any()
    notes = [*_describe(table.images, beside, path), *_describe_columns(table.unread, path)]
    return Tree(places=tuple(places), left_out=(), notes=tuple(notes))


def _locate(name: str, manifest: Path) -> Path:
    """Give the file that a name in a manifest means."""
    given = Path(name)
    if "\0" in name or ".." in given.parts:
        raise DataError(f"{manifest} names {name!r:.80}", hint="name files in its own folder, or by their whole path")
    return given if given.is_absolute() else manifest.parent / given


def _list(folder: Path, manifest: Path) -> Listing:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}, which {manifest} names", hint="mend the list, or put the images there")
    root, target = manifest.parent.resolve(), folder.resolve()
    if folder.is_relative_to(manifest.parent) and not target.is_relative_to(root):
        raise DataError(f"{folder} is a link to outside {root}", hint="name its files by their whole path")
    return list_folder(folder, target)


def _match(rows: Sequence[ListedImage], listing: Listing) -> dict[str, Path]:
    """Find the file of each row, by its name or by that without suffix where only one image has it."""
    by_name = {name_key(path.name): path for path in listing.images}
    by_stem = defaultdict[str, list[Path]](list)
    for name, path in by_name.items():
        by_stem[without_suffix(name)].append(path)
    found = dict[str, Path]()
    problems = Problems(DataError)
    for row in rows:
        key = name_key(row.name).rpartition("/")[2]
        fits = [by_name[key]] if key in by_name else by_stem.get(key, [])
        if len(fits) > 1:
            problems.add(
                f"{row.name} could be {' or '.join(path.name for path in fits)}", hint="name it with its suffix"
            )
        elif fits:
            found[row.name] = fits[0]
    if twice := [str(path) for path, times in Counter(found.values()).items() if times > 1]:
        problems.add(f"named more than once: {shorten(twice)}", hint="keep one row for each image")
    problems.raise_if_any()
    return found


def _group(
    rows: Iterable[ListedImage], found: dict[str, Path], folder: Path, listing: Listing, manifest: Path
) -> list[Place]:
    groups = defaultdict[_Group, list[ListedImage]](list)
    for row in rows:
        if row.name in found:
            groups[_Group(row.repeats, row.weight)].append(row)
    is_below = folder.is_relative_to(manifest.parent)
    parts = folder.relative_to(manifest.parent).parts if is_below else folder.parts[1:]
    return [
        Place(
            path=folder,
            parts=parts,
            listing=Listing(
                images=listing.images.take(_rows_of(listing, {found[row.name].name for row in own})),
                captions=listing.captions,
                folders=(),
                ignored=Counter(),
            ),
            repeats=group.repeats,
            weight=1.0 if group.weight is None else group.weight,
            label=_label(group) if len(groups) > 1 else "",
            listed=Listed(
                path=manifest,
                captions={found[row.name]: row.caption for row in own if row.caption is not None},
                masks={found[row.name]: _mask(row.mask, manifest) for row in own if row.mask is not None},
            ),
        )
        for group, own in sorted(groups.items(), key=lambda item: tuple(value or 0.0 for value in item[0]))
    ]


def _rows_of(listing: Listing, names: Collection[str]) -> NDArray[np.int64]:
    return np.flatnonzero([name in names for name in listing.images.names])


def _label(group: _Group) -> str:
    """Tell the images of one folder apart that are repeated or weighted differently."""
    repeats = "" if group.repeats is None else f" x {group.repeats:g}"
    return repeats if group.weight is None else f"{repeats} weight {group.weight:g}"


def _mask(name: str, manifest: Path) -> Path:
    path = _locate(name, manifest)
    if not path.is_file():
        raise DataError(f"no mask {path}, which {manifest} names", hint="mend the list")
    return path


def _describe(rows: Sequence[ListedImage], beside: Counter[Path], path: Path) -> list[str]:
    elsewhere = sum(Path(row.name).is_absolute() for row in rows)
    unlisted = [f"{folder} ({count})" for folder, count in beside.items() if count]
    return [
        *([f"{path.name} names {elsewhere} images by their whole path"] if elsewhere else []),
        *([f"left out: {beside.total()} images in {shorten(unlisted)}, not in {path.name}"] if unlisted else []),
    ]


def _describe_columns(unread: Sequence[str], path: Path) -> list[str]:
    return [f"{path.name}: {shorten(list(unread))} in it is not used"] if unread else []
