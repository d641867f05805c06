"""Find the folders of a data set, and list what lies in each."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions, SubsetOptions

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
UNREADABLE_SUFFIXES = frozenset({".heic", ".heif", ".jxl", ".psd", ".svg", ".cr2", ".nef", ".arw", ".dng"})
CAPTION_SUFFIXES = (".txt", ".caption")
MAX_FOLDER_REPEATS = 10_000

_NUMBERED = re.compile(r"(\d+)_(.*)", re.DOTALL)
_REGULARIZATION = frozenset({"reg", "regs", "regularization", "regularisation", "reg_images", "reg_data"})
_SHOWN = 5
_SEARCH_DEPTH = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The files of one folder, by what they are; sub-folders are not entered.

    Attributes:
        images: Image files in natural order.
        captions: Suffix (`.txt`, `.caption`) to stem (NFC) to file.
        folders: Sub-folders, hidden ones left out, in natural order.
        ignored: Reason to number of entries that are of no use.
    """

    images: tuple[Path, ...]
    captions: Mapping[str, Mapping[str, Path]]
    folders: tuple[Path, ...]
    ignored: Counter[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One folder to train on.

    Attributes:
        name: Unique name within the data set.
        prefix: What the names of its images begin with: `NAME/`, or empty for a data set of one flat folder.
        path: The folder.
        repeats: Visits of each image in an epoch.
        class_text: After the number in the folder's name, or as given for this folder; empty when there is none.
        options: Its own options, when it came from `data.subsets`.
        listing: Its files.
        is_numbered: The name says how often its images are repeated.
    """

    name: str
    prefix: str
    path: Path
    repeats: int
    class_text: str
    options: SubsetOptions | None
    listing: Listing
    is_numbered: bool


def natural_key(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts `2.jpg` before `10.jpg`, the same on every machine."""
    parts = re.findall(r"\d+|\D+", text.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], text


def stem_key(path: Path) -> str:
    """Give the stem by which an image and its caption file belong together, in one Unicode form."""
    return unicodedata.normalize("NFC", path.stem)


def shorten(names: Sequence[str]) -> str:
    """List up to five names and say how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def list_folder(path: Path, root: Path) -> Listing:
    """List a folder.

    Args:
        path: The folder.
        root: Resolved folder that files may not lead out of.

    Raises:
        DataError: Images or captions that are links out of the root, or no regular files; image formats that cannot
            be read; file names that are not valid UTF-8.
    """
    images, folders = [], []
    captions: dict[str, dict[str, Path]] = {suffix: {} for suffix in CAPTION_SUFFIXES}
    ignored: Counter[str] = Counter()
    problems = Problems(DataError)
    for entry in sorted(_entries(path), key=lambda entry: natural_key(entry.name)):
        suffix = entry.suffix.lower()
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            ignored["hidden"] += 1
        elif entry.is_dir():
            folders.append(entry)
        elif suffix in IMAGE_SUFFIXES:
            with problems.collect():
                images.append(_checked(entry, root))
        elif suffix in captions:
            with problems.collect():
                captions[suffix][stem_key(entry)] = _checked(entry, root)
        elif suffix in UNREADABLE_SUFFIXES:
            problems.add(f"{entry}: {suffix[1:].upper()} cannot be read", hint="convert it to JPEG or PNG")
        else:
            ignored["other"] += 1
    problems.raise_if_any()
    return Listing(images=tuple(images), captions=captions, folders=tuple(folders), ignored=ignored)


def find_folders(options: DataOptions) -> tuple[tuple[Folder, ...], list[str]]:
    """Find the folders to train on, in any of the three shapes: parent of `N_name` folders, flat folder, list.

    Returns:
        The folders, and notes on folders that hold images but are not read.

    Raises:
        ConfigError: Neither `data.path` nor `data.subsets`.
        DataError: A folder that is missing, holds no images, or could be meant in two ways.
    """
    if options.subsets:
        folders = _listed_folders(options.subsets)
    elif options.path is not None:
        folders = _folders_below(options.path, options.mask.dir)
    else:
        raise ConfigError("no images: data.path is not set", hint="give --data FOLDER")
    places = (options.mask.dir, *(subset.mask_dir for subset in options.subsets))
    return folders, _describe_unread(folders, options.path, [place.resolve() for place in places if place is not None])


def _listed_folders(subsets: Sequence[SubsetOptions]) -> tuple[Folder, ...]:
    problems = Problems(DataError)
    paths = [subset.path for subset in subsets]
    _refuse_same_folder_twice(paths, problems)
    names = _unique_names(paths)
    folders = []
    for subset, name in zip(subsets, names, strict=True):
        with problems.collect():
            folder = _folder(subset.path, name=name, prefix=f"{name}/", options=subset)
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


def _folders_below(path: Path, masks: Path | None) -> tuple[Folder, ...]:
    flat = _folder(path, name=path.resolve().name, prefix="", options=None)
    problems = Problems(DataError)
    children = []
    for child in (child for child in flat.listing.folders if masks is None or child.resolve() != masks.resolve()):
        with problems.collect():
            found = _folder(child, name=child.name, prefix=f"{child.name}/", options=None)
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


def _folder(path: Path, *, name: str, prefix: str, options: SubsetOptions | None) -> Folder:
    """Read one folder and what its name says."""
    _check_is_folder(path)
    own_name = path.resolve().name
    numbered = _NUMBERED.fullmatch(own_name)
    repeats = options.repeats if options and options.repeats else int(numbered[1]) if numbered else 1
    if not 1 <= repeats <= MAX_FOLDER_REPEATS:
        raise DataError(
            f"{path}: its name asks for {repeats} repeats of each image",
            hint="rename it to N_name with N of 1 or more, or give repeats in data.subsets",
        )
    text = options.class_text if options and options.class_text is not None else numbered[2] if numbered else ""
    return Folder(
        name=name,
        prefix=prefix,
        path=path,
        repeats=repeats,
        class_text=text.strip(),
        options=options,
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
    return path.is_dir() and any(entry.is_dir() or entry.suffix.lower() in IMAGE_SUFFIXES for entry in _entries(path))


def _folders_with_images(path: Path, depth: int) -> list[Path]:
    found = []
    for child in _entries(path) if depth else ():
        if child.is_dir() and not child.is_symlink() and not child.name.startswith((".", "__MACOSX")):
            has_images = any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in _entries(child))
            found += [child] if has_images else []
            found += _folders_with_images(child, depth - 1)
    return sorted(found, key=lambda folder: natural_key(str(folder)))


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {path}: {error.strerror}", hint="check its permissions") from error


def _checked(path: Path, root: Path) -> Path:
    """Refuse what is no regular file inside the root, and names that cannot be written down."""
    shown = str(path).encode("utf-8", "backslashreplace").decode()
    if shown != str(path) or not path.name.isprintable():
        raise DataError(f"the file name {shown!a} is not plain text", hint="rename it")
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        raise DataError(f"{path} is a link to outside its folder", hint="put a copy of the file there")
    if not path.is_file():
        raise DataError(f"{path} is not a regular file", hint="remove it")
    return path
