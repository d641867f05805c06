"""Find the folders of a data set, and list what lies in each."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.config.data import settle
from sdtune.config.subsets import MAX_REPEATS
from sdtune.data.listing import (
    IMAGE_SUFFIXES,
    Listing,
    is_folder,
    list_folder,
    natural_key,
    scan_entries,
    shorten,
    suffix_of,
)
from sdtune.errors import ConfigError, DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.config.subsets import SubsetOptions


_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)
_REGULARIZATION = frozenset({"reg", "regs", "regularization", "regularisation", "reg_images", "reg_data"})
_SEARCH_DEPTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One folder to train on.

    Attributes:
        name: Unique name within the data set.
        prefix: What the names of its images begin with: `NAME/`, or empty for a data set of one flat folder.
        path: The folder.
        repeats: Visits of each image in an epoch.
        class_text: After the number in the folder's name, or as given for this folder; empty when there is none.
        options: Options of the data as they hold for it.
        own: Its own options, when it came from `data.subsets`.
        listing: Its files.
        is_numbered: The name says how often its images are repeated.
    """

    name: str
    prefix: str
    path: Path
    repeats: float
    class_text: str
    options: DataOptions
    own: SubsetOptions | None
    listing: Listing
    is_numbered: bool


def find_folders(options: DataOptions) -> tuple[tuple[Folder, ...], list[str]]:
    """Find the folders to train on, in any of the three shapes: parent of `N_name` folders, flat folder, list.

    Returns:
        The folders, and notes on folders that hold images but are not read.

    Raises:
        ConfigError: Neither `data.path` nor `data.subsets`.
        DataError: A folder that is missing, holds no images, or could be meant in two ways.
    """
    if options.subsets:
        folders = _listed_folders(options)
    elif options.path is not None:
        folders = _folders_below(options.path, options)
    else:
        raise ConfigError("no images: data.path is not set", hint="give --data FOLDER")
    places = (options.mask.dir, *(subset.mask_dir for subset in options.subsets))
    return folders, _describe_unread(folders, options.path, [place.resolve() for place in places if place is not None])


def _listed_folders(options: DataOptions) -> tuple[Folder, ...]:
    problems, subsets = Problems(DataError), options.subsets
    paths = [subset.path for subset in subsets]
    _refuse_same_folder_twice(paths, problems)
    names = _unique_names(paths)
    folders = []
    for subset, name in zip(subsets, names, strict=True):
        with problems.collect():
            folder = _folder(subset.path, settle(options, subset), name=name, prefix=f"{name}/", own=subset)
            if not folder.listing.images:
                raise _no_images(subset.path)
            folders.append(folder)
    problems.raise_if_any()
    return tuple(folders)


def _refuse_same_folder_twice(paths: Iterable[Path], problems: Problems) -> None:
    for path, times in Counter(path.resolve() for path in paths).items():
        if times > 1:
            problems.add(f"data.subsets names {path} {times} times", hint="keep one, with repeats set")


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """Name each folder by its last part, or by as many as tell it from the others."""
    parts = [path.resolve().parts for path in paths]

    def name(own: tuple[str, ...]) -> str:
        for length in range(1, len(own)):
            if sum(other[-length:] == own[-length:] for other in parts) == 1:
                return "/".join(own[-length:])
        return "/".join(own)

    return [name(own) for own in parts]


def _folders_below(path: Path, options: DataOptions) -> tuple[Folder, ...]:
    flat, masks = _folder(path, options, name=path.resolve().name, prefix=""), options.mask.dir
    problems = Problems(DataError)
    children = []
    for child in (child for child in flat.listing.folders if masks is None or child.resolve() != masks.resolve()):
        with problems.collect():
            found = _folder(child, options, name=child.name, prefix=f"{child.name}/")
            if found.listing.images:
                _refuse_unclear_child(child)
                children.append(found)
            elif found.is_numbered:
                raise _no_images(child)
    problems.raise_if_any()
    if children and flat.listing.images:
        raise DataError(
            f"{path} holds {len(flat.listing.images)} images beside folders with images "
            f"({shorten([child.name for child in children])})",
            hint="move them into a folder of their own, or list the folders to train on in data.subsets",
        )
    if not children and not flat.listing.images:
        raise _no_images(path)
    return tuple(children) or (flat,)


def _describe_unread(folders: Sequence[Folder], root: Path | None, masks: Sequence[Path]) -> list[str]:
    """Name the folders that hold images, no masks, but are neither listed nor directly below the data set's folder."""
    read = {folder.path for folder in folders}
    tops = [root] if root is not None else [folder.path for folder in folders]
    below = [found for top in tops for found in _folders_with_images(top, _SEARCH_DEPTH) if found not in read]
    unread = [found for found in below if not any(found.resolve().is_relative_to(place) for place in masks)]
    return [f"folders with images that are not read: {shorten([str(path) for path in unread])}"] if unread else []


def _refuse_unclear_child(child: Path) -> None:
    numbered = _NUMBERED.fullmatch(child.name)
    if (numbered[2] if numbered else child.name).casefold() in _REGULARIZATION:
        raise DataError(
            f"{child} looks like regularization images, not like the subject's",
            hint="move it out of the data folder and set regularization.path, or rename it if it is to be learned",
        )
    if child.is_symlink():
        raise DataError(f"{child} is a link", hint="list the folder it leads to in data.subsets")


def _folder(path: Path, options: DataOptions, *, name: str, prefix: str, own: SubsetOptions | None = None) -> Folder:
    """Read one folder and what its name says."""
    _check_is_folder(path)
    own_name = path.resolve().name
    numbered = _NUMBERED.fullmatch(own_name)
    repeats = own.repeats if own and own.repeats else float(numbered[1]) if numbered else 1.0
    if not 0 < repeats <= MAX_REPEATS:
        raise DataError(
            f"{path}: its name asks for {repeats:g} repeats of each image",
            hint="rename it to N_name with N of 1 or more, or give repeats in data.subsets",
        )
    text = own.class_text if own and own.class_text is not None else numbered[2] if numbered else ""
    return Folder(
        name=name,
        prefix=prefix,
        path=path,
        repeats=repeats,
        class_text=text.strip(),
        options=options,
        own=own,
        listing=list_folder(path, path.resolve()),
        is_numbered=numbered is not None,
    )


def _check_is_folder(path: Path) -> None:
    if path.is_file():
        raise DataError(f"{path} is a file, not a folder of images", hint=f"give its folder: {path.parent}")
    if not path.is_dir():
        raise DataError(f"no folder {path}", hint="check the path")


def _no_images(path: Path) -> DataError:
    """Make the error for a folder without images, naming folders deeper down that have some."""
    deeper = _folders_with_images(path, _SEARCH_DEPTH)
    if deeper:
        parents = dict.fromkeys(str(folder.parent) for folder in deeper if folder.parent != path)
        choices = shorten([*parents, *map(str, deeper)])
        return DataError(f"no images directly in {path}", hint=f"did you mean one of: {choices}")
    return DataError(f"no images in {path}", hint=f"images are {', '.join(sorted(IMAGE_SUFFIXES))}")


def has_entries(path: Path) -> bool:
    """Tell whether there is a folder with an image, or with folders."""
    return path.is_dir() and any(is_folder(entry) or _is_image(entry.name) for entry in scan_entries(path))


def _folders_with_images(path: Path, depth: int) -> list[Path]:
    entries = scan_entries(path) if depth else ()
    below = [path / entry.name for entry in entries if is_folder(entry) and not entry.is_symlink()]
    found = []
    for child in (child for child in below if not child.name.startswith((".", "__MACOSX"))):
        found += [child] if any(_is_image(entry.name) for entry in scan_entries(child)) else []
        found += _folders_with_images(child, depth - 1)
    return sorted(found, key=lambda folder: natural_key(str(folder)))


def _is_image(name: str) -> bool:
    return suffix_of(name).lower() in IMAGE_SUFFIXES
