"""Files that list images: one row for each, with its caption and whatever else is said about it.

Read as data: JSON maps and kohya's metadata (.json), JSON lines as Hugging Face's imagefolder has them (.jsonl), and
Parquet.
"""

from __future__ import annotations

import json
import posixpath
import unicodedata
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.config.subsets import MAX_REPEATS
from sdtune.data.sources.listing import IMAGE_SUFFIXES, shorten
from sdtune.errors import DataError, PlatformError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    _Row = tuple[str, Mapping[str, Any]]

MAX_LIST_BYTES = 1 << 30
MAX_LINE_BYTES = 1 << 20
MAX_WEIGHT = 1000.0
LIST_SUFFIXES = (".json", ".jsonl", ".parquet")

_NAMES = ("file_name", "path", "image_path")
_CAPTIONS = ("caption", "text")
_KNOWN = (*_NAMES, *_CAPTIONS, "tags", "repeats", "weight", "mask", "image_size")
_MOST_PROBLEMS = 100
_EXAMPLE_LINE = 'write {"file_name": "01.jpg", "text": "a dog"}'
_EXAMPLE = 'write {"01.jpg": "a dog", ...}'


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedImage:
    """One image as a table names it.

    Attributes:
        name: Its file, absolute or relative to the table's folder, with `/`; often without its suffix.
        caption: Its caption, kohya's tags behind it; None: the table has none.
        repeats: Visits in an epoch; None: not said.
        weight: Weight of its loss; None: not said.
        mask: File of its mask, as `name`; None: not said.
    """

    name: str
    caption: str | None
    repeats: float | None
    weight: float | None
    mask: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageList:
    """A file that lists images.

    Attributes:
        images: Its rows; no two have one name.
        unread: Columns that are not used.
    """

    images: tuple[ListedImage, ...]
    unread: tuple[str, ...]


def read_list(path: Path, where: str = "") -> ImageList:
    """Read a file that lists images.

    Args:
        path: A .json, .jsonl or .parquet file.
        where: The option that names it, for messages.

    Raises:
        DataError: It is missing, too large, or no such table; all rows that cannot be used together.
        PlatformError: Parquet, and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"no file {path}", where=where, hint="check the path")
    if path.stat().st_size > MAX_LIST_BYTES:
        raise DataError(f"{path} is larger than {MAX_LIST_BYTES >> 30} GiB", where=where, hint="split the data set")
    images: list[ListedImage] = []
    columns: set[str] = set()
    problems: list[Problem] = []
    for place, fields in _readable(path):
        columns.update(fields)
        try:
            images.append(_listed(fields, f"{path}, {place}"))
        except DataError as error:
            problems.extend(error.problems)
            if len(problems) == _MOST_PROBLEMS:
                break
    if problems:
        raise DataError(problems=problems)
    _refuse_same_names((image.name for image in images), path)
    return ImageList(images=tuple(images), unread=tuple(sorted(columns - set(_KNOWN))))


def name_key(name: str) -> str:
    """Give the form in which names are compared: `/` between folders, no `./`, composed letters (NFC)."""
    return posixpath.normpath(unicodedata.normalize("NFC", name.replace("\\", "/")))


def without_suffix(name: str) -> str:
    """Leave out an image's suffix, and no other: `a.b.jpg` becomes `a.b`, and stays that."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in IMAGE_SUFFIXES else name


def _readable(path: Path) -> Iterator[_Row]:
    try:
        yield from _rows(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _rows(path: Path) -> Iterator[_Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix == ".jsonl":
        return _line_rows(path)
    return _json_rows(path)


def _json_rows(path: Path) -> Iterator[_Row]:
    table = _parse(path.read_bytes(), path, str(path))
    if isinstance(table, list):
        table = {f"row {number}": row for number, row in enumerate(table, start=1)}
        if not all(isinstance(row, dict) for row in table.values()):
            raise DataError(f"{path} is not one map from file name to caption", hint=_EXAMPLE)
        yield from table.items()
        return
    if not isinstance(table, dict) or not all(isinstance(row, dict | str | None) for row in table.values()):
        raise DataError(f"{path} is not one map from file name to caption", hint=_EXAMPLE)
    for name, row in table.items():
        yield name, {**row, "file_name": name} if isinstance(row, dict) else {"file_name": name, "caption": row}


def _line_rows(path: Path) -> Iterator[_Row]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), start=1):
            if len(line) > MAX_LINE_BYTES:
                raise DataError(f"{path}, line {number} is longer than {MAX_LINE_BYTES >> 20} MiB", hint="shorten it")
            if line.strip():
                row = _parse(line, path, f"{path}, line {number}")
                if not isinstance(row, dict):
                    raise DataError(
                        f"{path}, line {number} is no JSON object",
                        hint='write {"file_name": "01.jpg", "text": "a dog"}',
                    )
                yield f"line {number}", row


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise PlatformError(
            f"reading {path} takes pyarrow, which is not installed", hint="pip install sdtune[parquet]"
        ) from None
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            number = 0
            for batch in file.iter_batches(columns=[name for name in names if name in _KNOWN]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", {**dict.fromkeys(names), **row}
    except (ArrowException, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        raise DataError(f"{path} is not Parquet: {error}", hint="write it anew") from None


def _parse(data: bytes, path: Path, where: str) -> Any:
    """Parse JSON in any encoding that JSON may have, each name once."""
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not {error.encoding.upper()} at byte {error.start}", hint="save it as UTF-8"
        ) from None
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _without_doubles(pairs, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}", hint="mend it") from None


def _without_doubles(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
        raise DataError(f"{where} names {shorten(twice)} more than once", hint="keep one of each")
    return found


def _refuse_same_names(names: Iterable[str], path: Path) -> None:
    twice = [name for name, times in Counter(name_key(name) for name in names).items() if times > 1]
    if twice:
        raise DataError(f"{path} names {shorten(twice)} more than once", hint="keep one row for each image")


def _listed(fields: Mapping[str, Any], where: str) -> ListedImage:
    name = _text(fields, _only(fields, _NAMES, where), where)
    if not name:
        raise DataError(f"{where} names no image", hint=f"give it {' or '.join(_NAMES)}")
    caption = _text(fields, _only(fields, _CAPTIONS, where), where)
    return ListedImage(
        name=name.replace("\\", "/"),
        caption=_with_tags(caption, fields.get("tags"), where),
        repeats=_number(fields, "repeats", MAX_REPEATS, where),
        weight=_number(fields, "weight", MAX_WEIGHT, where),
        mask=_text(fields, "mask", where),
    )


def _only(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
    """Choose the one of several columns that is filled."""
    filled = [name for name in names if fields.get(name) is not None]
    if len(filled) > 1:
        raise DataError(f"{where} has both {' and '.join(filled)}", hint="keep one of them")
    return filled[0] if filled else names[0]


def _text(fields: Mapping[str, Any], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {name} is {value!r:.40}, not text", hint="mend it")
    return value


def _with_tags(caption: str | None, tags: Any, where: str) -> str | None:
    """Put kohya's tags behind a caption, as its scripts do; a list of tags is joined."""
    if isinstance(tags, list) and all(isinstance(tag, str) for tag in tags):
        tags = ", ".join(tags)
    if not isinstance(tags, str | None):
        raise DataError(f"{where}: tags are {tags!r:.40}, not text", hint="mend them")
    return ", ".join(part for part in (caption, tags) if part) if tags else caption


def _number(fields: Mapping[str, Any], name: str, most: float, where: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise DataError(f"{where}: {name} is {value!r:.40}, not a number from 0 to {most:g}", hint="mend it")
    return float(value)
