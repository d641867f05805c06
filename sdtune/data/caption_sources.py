"""Find the caption of each image: in a file beside it, in a JSON map, or by one of three explicit choices."""

from __future__ import annotations

import codecs
import json
import unicodedata
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from sdtune.data.blobs import TextColumn
from sdtune.data.listing import CAPTION_SUFFIXES, Files, shorten, stem_of
from sdtune.data.prompts import FILEWORDS
from sdtune.errors import ConfigError, DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.folders import Folder
    from sdtune.data.scan import Scan, TextReader

MAX_CAPTION_BYTES = 8192
_MOST_BYTES = 2 * MAX_CAPTION_BYTES + 1  # UTF-16 takes up to twice the room; the text itself is measured in UTF-8
MAX_JSON_BYTES = 1 << 28
CAPTION_OR_CLASS = "caption_or_class"  # of regularization images: a caption file where there is one, else the class

_CHOOSE = (
    'write them, or choose data.captions=class_text data.class_text="photo of a dog" (one caption for all), '
    "data.captions=filename (the file's name), or data.captions=empty (none)"
)
_CHOOSE_PROMPT = 'write them, or set regularization.prompt="a photo of a dog"'
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def choose_sources(folders: Sequence[Folder], options: DataOptions) -> tuple[str, ...]:
    """Settle each folder's caption source; `auto` looks at the caption files of all folders that leave it open.

    Raises:
        DataError: No caption files, or both kinds, where the source is `auto`.
    """
    wanted = [_wanted(folder) for folder in folders]
    open_folders = [folder for folder, source in zip(folders, wanted, strict=True) if source == "auto"]
    found = _detect(open_folders) if open_folders else "auto"
    return tuple(found if source == "auto" else source for source in wanted)


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
    folders: Sequence[Folder], sources: Sequence[str], options: DataOptions, scan: Scan
) -> tuple[list[TextColumn], list[str]]:
    """Read the caption of every image.

    Args:
        folders: The images.
        sources: Where the captions of each folder come from.
        options: Options of all folders.
        scan: Reads files.

    Returns:
        Captions of each folder's images, in their order, and notes for the user.

    Raises:
        DataError: Captions that are missing, empty, too long or not UTF-8: all of them together.
    """
    captions: list[TextColumn] = []
    notes: list[str] = []
    problems = Problems(DataError)
    table = _by_image_name(_read_json(options.captions_json), folders) if options.captions_json else {}
    for folder, source in zip(folders, sources, strict=True):
        with problems.collect(), scan.texts(folder.listing.captions, _MOST_BYTES) as read:
            hint = _CHOOSE_PROMPT if source == CAPTION_OR_CLASS else _CHOOSE
            found = _caption_folder(folder, _reader(folder, source, options, table, read), notes, hint)
            captions.append(TextColumn.of(found))
    problems.raise_if_any()
    return captions, [*_describe_unused(sources, options), *notes]


def decode_text(data: bytes, path: Path) -> str:
    """Decode a caption file: UTF-8 with or without a byte-order mark, or UTF-16 with one; never a code page.

    Raises:
        DataError: Other bytes; names the file and the offset.
    """
    mark, encoding = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", "utf-8"))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = error.start + len(mark)
        raise DataError(f"{path} is not {encoding.upper()} at byte {offset}", hint="save it as UTF-8") from None


def clean_caption(text: str, where: str, notes: list[str]) -> str:
    """Keep the first line of a caption, without control characters.

    Args:
        text: The caption as found.
        where: What is named in messages.
        notes: Receives what was left out.

    Raises:
        DataError: Nothing is left, or it is longer than 8 KB.
    """
    if len(text.encode("utf-8", "replace")) > MAX_CAPTION_BYTES:
        raise DataError(f"the caption in {where} is longer than {MAX_CAPTION_BYTES} bytes", hint="shorten it")
    lines = text.strip().splitlines() or [""]
    if any(line.strip() for line in lines[1:]):
        notes.append(f"{where}: several lines, the first is used")
    spaced = lines[0].replace("\t", " ")
    caption = "".join(letter for letter in spaced if unicodedata.category(letter) != "Cc").strip()
    if len(caption) < len(spaced.strip()):
        notes.append(f"{where}: control characters left out")
    if not caption:
        raise DataError(f"the caption in {where} is empty", hint="write one; data.captions=empty trains without any")
    return caption


def _wanted(folder: Folder) -> str:
    own = folder.options
    if own.prompt is not None and FILEWORDS not in own.prompt:
        return "prompt"
    return own.captions


def _detect(folders: Sequence[Folder]) -> str:
    """Name the kind of caption file these folders hold beside their images."""
    counts = {suffix: sum(_count_captioned(folder, suffix) for folder in folders) for suffix in CAPTION_SUFFIXES}
    found = [suffix for suffix, count in counts.items() if count]
    total = sum(len(folder.listing.images) for folder in folders)
    if len(found) > 1:
        numbers = " and ".join(f"{counts[suffix]} {suffix}" for suffix in found)
        raise DataError(f"both kinds of caption files: {numbers}", hint="choose data.captions=txt or =caption")
    if not found:
        names = shorten([str(folder.path) for folder in folders])
        raise DataError(f"captions: 0 of {total} images in {names} have a .txt or .caption file", hint=_CHOOSE)
    return found[0][1:]


def _count_captioned(folder: Folder, suffix: str) -> int:
    files = folder.listing.captions[suffix]
    return sum(stem in files for stem in Files.of(folder.listing.images).stems()) if files else 0


def _reader(
    folder: Folder, source: str, options: DataOptions, table: Mapping[str, str], read: TextReader
) -> Callable[[str, list[str]], str | None]:
    """Give the function that finds one image's caption in this folder; None stands for a missing one."""
    if source in ("txt", "caption"):
        return lambda image, notes: _read_file(read, f".{source}", image, notes)
    if source == "json":
        return lambda image, notes: _look_up(table, folder.prefix + image, notes)
    if source == "class_text":
        text = class_text(folder, options)
        if not text:
            raise DataError(
                f"{folder.path} has no class text", hint='set data.class_text="photo of a dog", or name it N_dog'
            )
        return lambda image, notes: text
    if source == CAPTION_OR_CLASS:
        text = class_text(folder, options)
        return lambda image, notes: (
            _read_file(read, ".txt", image, notes) or _read_file(read, ".caption", image, notes) or text or None
        )
    if source == "filename":
        return lambda image, notes: clean_caption(PurePath(image).stem.replace("_", " "), image, notes)
    return lambda image, notes: ""


def class_text(folder: Folder, options: DataOptions) -> str:
    """Settle a folder's class text: its own option, then `data.class_text`, then the folder's name after `N_`."""
    own = folder.own.class_text if folder.own else None
    return next(text for text in (own, options.class_text, folder.class_text) if text is not None).strip()


def _caption_folder(
    folder: Folder, read: Callable[[str, list[str]], str | None], notes: list[str], hint: str
) -> list[str]:
    problems = Problems(DataError)
    captions: list[str] = []
    missing = []
    for image in Files.of(folder.listing.images).names:
        with problems.collect():
            caption = read(image, notes)
            if caption is None:
                missing.append(folder.prefix + image)
            else:
                captions.append(caption)
    if missing:
        count = f"{len(missing)} of {len(folder.listing.images)} images"
        problems.add(f"no caption for {count} in {folder.path}: {shorten(missing)}", hint=hint)
    problems.raise_if_any()
    return captions


def _read_file(read: TextReader, suffix: str, image: str, notes: list[str]) -> str | None:
    stem = stem_of(image)
    data = read(suffix, stem)
    if data is None:
        return None
    if caption := _plain_line(data):
        return caption
    path = read.path(suffix, stem)
    if len(data) == _MOST_BYTES:
        raise DataError(f"the caption in {path} is longer than {MAX_CAPTION_BYTES} bytes", hint="shorten it")
    return clean_caption(decode_text(data, path), str(path), notes)


def _plain_line(data: bytes) -> str:
    """Give a caption that is one printable line of UTF-8, as nearly all are; empty: it takes a closer look."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() and len(data) <= MAX_CAPTION_BYTES else ""


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


def _describe_unused(sources: Sequence[str], options: DataOptions) -> list[str]:
    is_unused = options.class_text is not None and "class_text" not in sources
    return ["data.class_text is in no caption: that takes data.captions=class_text"] if is_unused else []
