"""Find the folders of a data set, whatever their arrangement, and say what they were taken for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING

from sdtune.config.data import settle
from sdtune.config.subsets import MAX_REPEATS, SubsetOptions
from sdtune.data.sources.folder_notes import describe_left_out, describe_repeats
from sdtune.data.sources.image_lists import LIST_SUFFIXES
from sdtune.data.sources.listing import IMAGE_SUFFIXES, scan_entries, shorten, suffix_of
from sdtune.data.sources.manifests import read_manifest
from sdtune.data.sources.tars import unpack
from sdtune.data.sources.tree import Tree, read_number, walk
from sdtune.errors import ConfigError, DataError, Problems
from sdtune.paths import user_cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.sources.listing import Listing
    from sdtune.data.sources.tree import LeftOut, Listed, Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """One folder to train on.

    Attributes:
        name: Unique name within the data set.
        prefix: What the names of its images begin with: `NAME/`, or empty for the loose images of a data set.
        path: The folder.
        repeats: Visits of each image in an epoch.
        class_text: After the number in the folder's name, or as given for this folder; empty when there is none.
        options: Options of the data as they hold for it.
        own: Its own options, when it came from `data.subsets`.
        listing: Its files.
        is_numbered: A name says how often its images are repeated: its own, or that of a folder it lies in.
        listed: What a list of images says of its images; None: they come from no list.
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
    listed: Listed | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Root:
    """A place that the options name: `data.path`, or one of `data.subsets`."""

    path: Path
    name: str
    prefix: str
    options: DataOptions
    own: SubsetOptions | None


def find_folders(
    options: DataOptions, reserved: Mapping[Path, str] | None = None
) -> tuple[tuple[Folder, ...], list[str]]:
    """Find the folders to train on: all with images, from `data.path` or the paths of `data.subsets` downwards.

    Repeats and class text come from the nearest `N_name` on the way up, the folder's own name first.

    Args:
        options: Where images are.
        reserved: Folders that are in use for something else, and for what: they are not trained on.

    Returns:
        The folders, and notes on what they were taken for and on what is left out.

    Raises:
        ConfigError: Neither `data.path` nor `data.subsets`.
        DataError: Places that are missing or hold no images to train on, names that ask for no repeats.
    """
    roots = _roots(options)
    others = {path.resolve(): reason for path, reason in (reserved or {}).items()}
    masks = (options.mask.dir, *(subset.mask_dir for subset in options.subsets))
    others |= {path.resolve(): "masks" for path in masks if path is not None}
    others |= {root.path.resolve(): "named in data.subsets itself" for root in roots if root.own is not None}
    folders, notes, problems = list[Folder](), list[str](), Problems(DataError)
    for root in roots:
        with problems.collect():
            found, said = _read_root(root, others)
            folders += found
            notes += said
    problems.raise_if_any()
    return tuple(_with_own_names(folders)), notes


def _with_own_names(folders: Sequence[Folder]) -> Iterator[Folder]:
    """Rename folders whose name another one before them has: a loose root, or ends of two paths."""
    taken = set[str]()
    for folder in folders:
        name = folder.name
        while name in taken:
            name += "+"
        taken.add(name)
        yield folder if name == folder.name else replace(folder, name=name, prefix=folder.prefix and f"{name}/")


def _roots(options: DataOptions) -> list[_Root]:
    if options.subsets:
        names = _name_subsets(options.subsets)
        return [
            _Root(path=own.path, name=name, prefix=f"{name}/", options=settle(options, own), own=own)
            for own, name in zip(options.subsets, names, strict=True)
        ]
    if options.path is None:
        raise ConfigError("no images: data.path is not set", hint="give --data FOLDER")
    return [_Root(path=options.path, name=options.path.resolve().name, prefix="", options=options, own=None)]


def _name_subsets(subsets: Sequence[SubsetOptions]) -> list[str]:
    """Name each entry by the last part of its path, or as many as tell it from others, and by its resolution."""
    times = Counter((own.path.resolve(), own.resolution) for own in subsets)
    problems = Problems(DataError)
    for (path, resolution), count in times.items():
        if count > 1:
            again = f" at {resolution} px" if resolution else ""
            problems.add(f"data.subsets names {path}{again} {count} times", hint="keep one, with repeats set")
    problems.raise_if_any()
    paths = {own.path.resolve(): own.path.resolve().parts for own in subsets}
    short = {path: _shortest_end(parts, paths.values()) for path, parts in paths.items()}
    shared = Counter(path for path, _ in times)
    return [
        f"{short[path]}@{own.resolution}" if shared[path := own.path.resolve()] > 1 and own.resolution else short[path]
        for own in subsets
    ]


def _shortest_end(own: tuple[str, ...], others: Iterable[tuple[str, ...]]) -> str:
    for length in range(1, len(own)):
        if sum(other[-length:] == own[-length:] for other in others) == 1:
            return "/".join(own[-length:])
    return "/".join(own)


def _read_root(root: _Root, reserved: Mapping[Path, str]) -> tuple[list[Folder], list[str]]:
    tree = _read_tree(root, reserved)
    places = [place for place in tree.places if place.count]
    if not places:
        raise _no_images(root.path, tree.left_out)
    if root.options.captions == "auto" and any(place.listed and place.listed.captions for place in places):
        captions = {"captions": "json", "captions_json": root.path}
        root = replace(root, options=root.options.model_copy(update=captions))
    problems, folders = Problems(DataError), list[Folder]()
    _refuse_empty(tree, problems)
    shared = _shared_parts(places)
    for place in places:
        with problems.collect():
            folders.append(_folder(place, root, len(shared)))
    problems.raise_if_any()
    inner = [f"all images of {root.path} lie in {'/'.join(shared)}"] if shared else []
    unsaid = [folder for folder, place in zip(folders, places, strict=True) if place.repeats is None]
    repeats = [] if root.own and root.own.repeats else describe_repeats(unsaid, len(folders) > 1)
    return folders, [*inner, *tree.notes, *repeats, *describe_left_out(tree, root.prefix)]


def _read_tree(root: _Root, reserved: Mapping[Path, str]) -> Tree:
    """Read what a path names: a folder, a tar or several of them, or a file that lists images."""
    path, cache = root.path, root.options.cache.dir or user_cache_folder()
    if path.is_file():
        if path.suffix.lower() == ".tar":
            return walk(unpack(path, cache), reserved)
        if path.suffix.lower() in LIST_SUFFIXES:
            return read_manifest(path)
        if path.suffix.lower() == ".toml":
            raise DataError(
                f"{path} is a dataset file, and cannot stand here", hint="give it as data.path of a training"
            )
        raise DataError(f"{path} is a file, not a folder of images", hint=f"give its folder: {path.parent}")
    if not path.is_dir():
        raise DataError(f"no folder {path}", hint="check the path")
    tars = sorted(path / entry.name for entry in scan_entries(path) if suffix_of(entry.name).lower() == ".tar")
    subfolders = root.own is None or root.own.subfolders
    trees = [
        walk(path, reserved, subfolders=subfolders),
        *(walk(unpack(tar, cache), reserved, (tar.stem,)) for tar in tars),
    ]
    return Tree(
        places=tuple(place for tree in trees for place in tree.places),
        left_out=tuple(place for tree in trees for place in tree.left_out),
    )


def _shared_parts(places: Sequence[Place]) -> tuple[str, ...]:
    """Give the folders that all others lie in, so that names are the same whichever of them the options name."""
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*(place.parts[:-1] for place in places), strict=False))
    return tuple(level[0] for level in levels)


def _folder(place: Place, root: _Root, above: int) -> Folder:
    """Settle what one folder's name, those above it and its own options say.

    Args:
        place: The folder.
        root: Where it was found.
        above: How many folders below the root are no part of names.
    """
    names = (*reversed(place.parts), _spoken_name(root.path.resolve()))
    said = next((said for name in names if (said := read_number(name)) is not None), None)
    own, below = _own_options(place, root), "/".join(place.parts[above:])
    repeats = (own and own.repeats) or place.repeats or (said[0] if said else 1.0)
    if not 0 < repeats <= MAX_REPEATS:
        raise DataError(
            f"{place.path}: its name asks for {repeats:g} repeats of each image",
            hint="rename it to N_name with N of 1 or more, or give repeats in data.subsets",
        )
    text = own.class_text if own and own.class_text is not None else said[1] if said else ""
    return Folder(
        name=(f"{root.prefix}{below}".rstrip("/") or root.name) + place.label,
        prefix=f"{root.prefix}{below}/" if below else root.prefix,
        path=place.path,
        repeats=repeats,
        class_text=text.strip(),
        options=root.options,
        own=own,
        listing=place.listing,
        is_numbered=said is not None,
        listed=place.listed,
    )


def _spoken_name(path: Path) -> str:
    """Give the name that may say repeats: of a tar its own, of a list that of the folder it lies in."""
    if path.is_dir():
        return path.name
    return path.parent.name if path.suffix.lower() in LIST_SUFFIXES else path.stem


def _own_options(place: Place, root: _Root) -> SubsetOptions | None:
    """Give a root's own options, with the weight that a list of images says."""
    if place.weight == 1:
        return root.own
    own = root.own or SubsetOptions(path=place.path)
    return own.model_copy(update={"weight": own.weight * place.weight})


def _no_images(path: Path, left_out: Sequence[LeftOut] = ()) -> DataError:
    """Make the error for a place without images to train on."""
    found = [place for place in left_out if place.count]
    if not found:
        return DataError(f"no images in {path}", hint=f"images are {', '.join(sorted(IMAGE_SUFFIXES))}")
    reasons = [f"{place.name} ({place.count} images, {place.reason})" for place in found]
    return DataError(
        f"no images to train on in {path}: it has only {shorten(reasons)}", hint="name the folder itself as data.path"
    )


def _refuse_empty(tree: Tree, problems: Problems) -> None:
    """Refuse folders that ask for repeats of images that are not there, nor in a folder below."""
    filled = [place.path for place in tree.places if place.count] + [
        other.path for other in tree.left_out if other.count
    ]
    holders = {holder for path in filled for holder in (path, *path.parents)}
    for place in tree.places:
        if place.parts and "_" in place.parts[-1] and read_number(place.parts[-1]) and place.path not in holders:
            problems.add(f"no images in {place.path}", hint="remove the folder, or put images into it")
