"""Find the caption of each image: in a file beside it, in a JSON map, or what stands in for one by choice."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sdtune.data.caption_files import clean_caption, decode_text, read_caption_file, use_lines
from sdtune.data.caption_stand_ins import CAPTION_OR_CLASS, CHOOSE, FILES, replace_missing, stand_in_for
from sdtune.data.captions import needs_caption
from sdtune.data.listing import CAPTION_SUFFIXES, shorten, stem_key
from sdtune.data.templates import placeholders, read_templates
from sdtune.errors import ConfigError, DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.folders import Folder

    Read = Callable[[Path, list[str]], str | None]

MAX_JSON_BYTES = 1 << 28


def choose_sources(folders: Sequence[Folder], options: DataOptions) -> tuple[str, ...]:
    """Settle each folder's caption source; `auto` looks at the caption files of all folders that leave it open.

    Raises:
        DataError: No caption files where the source is `auto`, or a file of templates that cannot be read.
    """
    wanted = [_wanted(folder) for folder in folders]
    open_folders = [folder for folder, source in zip(folders, wanted, strict=True) if source == "auto"]
    found = iter(_detect(open_folders) if open_folders else ())
    return tuple(next(found) if source == "auto" else source for source in wanted)


def check_options(options: DataOptions) -> None:
    """Refuse caption options that contradict each other.

    Raises:
        ConfigError: `data.captions_json` without `json`, or the other way round.
    """
    wanted = {options.captions, *(subset.captions for subset in options.subsets)}
    if ("json" in wanted) != (options.captions_json is not None):
        raise ConfigError(
            "data.captions=json and data.captions_json belong together", hint="set both, or neither of them"
        )


def read_captions(
    folders: Sequence[Folder], sources: Sequence[str], options: DataOptions
) -> tuple[dict[Path, str], list[str]]:
    """Read the caption of every image.

    Returns:
        Image file to caption, and notes for the user. Images that `missing_captions: skip` leaves out are not in it.

    Raises:
        DataError: Captions that are missing, empty, too long or not Unicode: all of them together.
    """
    captions: dict[Path, str] = {}
    notes: list[str] = []
    problems = Problems(DataError)
    table = _by_image_name(_read_json(options.captions_json), folders) if options.captions_json else {}
    for folder, source in zip(folders, sources, strict=True):
        with problems.collect():
            found = _caption_folder(folder, source, options, table, notes)
            notes += _describe_unknown(folder, found.values())
            captions |= found
    problems.raise_if_any()
    return captions, [*_describe_unused(folders, sources, options), *notes]


def folder_templates(folder: Folder) -> tuple[str, ...]:
    """Read the templates of a folder, if it has any.

    Raises:
        DataError: The file cannot be read, or has a line that needs a token and there is none.
    """
    own = folder.options
    if own.templates is None:
        return ()
    lines = read_templates(own.templates)
    nameless = [line for line in lines if "[name]" in line and not own.token and "name" not in own.words]
    if nameless:
        raise DataError(
            f"{own.templates}: [name] stands for data.token, which is not set: {shorten(nameless)}",
            hint="set data.token, e.g. zwx",
        )
    return lines


def _wanted(folder: Folder) -> str:
    return folder.options.captions if needs_caption(folder.options, folder_templates(folder)) else "prompt"


def _detect(folders: Sequence[Folder]) -> list[str]:
    """Name the source of each of these folders by the caption files beside its images."""
    kinds = [[suffix for suffix in CAPTION_SUFFIXES if _count_captioned(folder, suffix)] for folder in folders]
    if any(kinds):
        return [own[0][1:] if len(own) == 1 else "mixed" for own in kinds]
    sources = [folder.options.missing_captions for folder in folders]
    if {"error", "skip"} & set(sources):
        total = sum(len(folder.listing.images) for folder in folders)
        names = shorten([str(folder.path) for folder in folders])
        raise DataError(f"captions: 0 of {total} images in {names} have a .txt or .caption file", hint=CHOOSE)
    return list(sources)


def _count_captioned(folder: Folder, suffix: str) -> int:
    return sum(stem_key(image) in folder.listing.captions[suffix] for image in folder.listing.images)


def _caption_folder(
    folder: Folder, source: str, options: DataOptions, table: Mapping[str, str], notes: list[str]
) -> dict[Path, str]:
    """Read the captions of one folder; what is missing gets what its options say."""
    images = folder.listing.images
    if source not in FILES and source != "json":
        stand_in = stand_in_for(folder, source, options)
        return {image: stand_in(image) for image in images}
    problems = Problems(DataError)
    if source == "mixed":
        _refuse_differing(folder, problems)
    read = _reader(folder, source, table)
    captions: dict[Path, str] = {}
    missing = []
    for image in images:
        with problems.collect():
            caption = read(image, notes)
            if caption is None:
                missing.append(image)
            else:
                captions[image] = caption
    if missing:
        with problems.collect():
            captions |= replace_missing(folder, missing, source, options, notes)
    problems.raise_if_any()
    notes += _describe_files(folder, source, captions)
    return {image: use_lines(caption, folder.options.caption_lines) for image, caption in captions.items()}


def _reader(folder: Folder, source: str, table: Mapping[str, str]) -> Read:
    """Give the function that finds one image's caption in this folder; None stands for a missing one."""
    takes_empty = folder.options.missing_captions != "error"
    if source == "json":
        table = {name: text for name, text in table.items() if text.strip()} if takes_empty else table
        return lambda image, notes: _look_up(table, folder.prefix + image.name, notes)

    def read(image: Path, notes: list[str]) -> str | None:
        path = next(iter(_caption_files(folder, source, image)), None)
        if path is None:
            return None
        caption = read_caption_file(path, notes)
        return caption or (None if takes_empty else clean_caption(caption, str(path), notes))

    return read


def _caption_files(folder: Folder, source: str, image: Path) -> list[Path]:
    """List the files that hold an image's caption: none, one, or one of each suffix."""
    tables = (folder.listing.captions[suffix] for suffix in FILES[source])
    return [files[key] for files in tables if (key := stem_key(image)) in files]


def _refuse_differing(folder: Folder, problems: Problems) -> None:
    """Refuse images with two caption files that do not say the same."""
    pairs = [(image, _caption_files(folder, "mixed", image)) for image in folder.listing.images]
    names = [image.name for image, files in pairs if len(files) > 1 and _differ(*files)]
    if names:
        problems.add(
            f"{len(names)} images in {folder.path} have a .txt and a .caption that differ: {shorten(names)}",
            hint="remove one of them, or choose data.captions=txt or =caption",
        )


def _differ(first: Path, second: Path) -> bool:
    with suppress(DataError):  # told where it is read
        return read_caption_file(first, []) != read_caption_file(second, [])
    return False


def _describe_unknown(folder: Folder, captions: Iterable[str]) -> list[str]:
    """Name placeholders that no word stands for, where placeholders are filled."""
    own = folder.options
    lines = folder_templates(folder)
    texts = (*lines, *((own.prompt or "", own.prefix, own.suffix, *captions) if own.words else ()))
    unknown = {name for text in texts for name in placeholders(text)} - {"name", "class", *own.words}
    unknown -= {"caption"} if lines else set()
    names = shorten([f"{{{name}}}" for name in sorted(unknown)])
    return [f"no word for {names} in {folder.path}, so nothing stands there: see data.words"] if unknown else []


def _describe_files(folder: Folder, source: str, captions: Mapping[Path, str]) -> list[str]:
    """Tell of several lines of which one is used, and of both kinds of caption files."""
    notes = []
    several = sum("\n" in caption for caption in captions.values())
    if several and folder.options.caption_lines == "first":
        notes.append(f"{several} captions in {folder.path} have several lines, the first is used (data.caption_lines)")
    if source == "mixed" and all(counts := [_count_captioned(folder, suffix) for suffix in CAPTION_SUFFIXES]):
        numbers = " and ".join(f"{count} {suffix}" for count, suffix in zip(counts, CAPTION_SUFFIXES, strict=True))
        notes.append(f"captions in {folder.path}: {numbers} files, both are read")
    return notes


def _look_up(table: Mapping[str, str], name: str, notes: list[str]) -> str | None:
    text = table.get(name)
    return None if text is None else clean_caption(text, f"data.captions_json for {name}", notes)


def _by_image_name(table: Mapping[str, str], folders: Sequence[Folder]) -> dict[str, str]:
    """Key the map by path inside the data set; a bare file name counts where only one image has it."""
    names = [(folder.prefix + image.name, image.name) for folder in folders for image in folder.listing.images]
    times = Counter(file_name for _, file_name in names)
    keys = ((name, name if name in table or times[file_name] > 1 else file_name) for name, file_name in names)
    return {name: table[key] for name, key in keys if key in table}


def _read_json(path: Path) -> dict[str, str]:
    """Read a JSON map from file name to caption."""
    if not path.is_file():
        raise DataError(f"no file {path}", where="data.captions_json", hint="check the path")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise DataError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB", hint="split the data set")
    try:
        table = json.loads(decode_text(path.read_bytes(), path), object_pairs_hook=_refuse_duplicates)
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}", hint="mend it") from None
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise DataError(f"{path} is not one map from file name to caption", hint='write {"01.jpg": "a dog", ...}')
    return table


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if twice:
        raise DataError(f"data.captions_json names {shorten(twice)} more than once", hint="keep one caption each")
    return dict(pairs)


def _describe_unused(folders: Sequence[Folder], sources: Sequence[str], options: DataOptions) -> list[str]:
    uses = {*sources, *(folder.options.missing_captions for folder in folders)}
    is_unused = options.class_text is not None and not uses & {"class_text", CAPTION_OR_CLASS}
    return ["data.class_text is in no caption: that takes data.captions=class_text"] if is_unused else []
