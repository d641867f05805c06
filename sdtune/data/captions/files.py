"""Text files of users, read strictly: UTF-8 or marked UTF-16, or an error that names the byte."""

from __future__ import annotations

import codecs
import unicodedata
from typing import TYPE_CHECKING

from sdtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.config.kinds import CaptionLines

MAX_CAPTION_BYTES = 8192
MOST_FILE_BYTES = 2 * MAX_CAPTION_BYTES + 1  # UTF-16 takes up to twice the room; the text is measured in UTF-8
MAX_TEXT_BYTES = 1 << 22
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ENDS = ",;.:!?"


def decode_text(data: bytes, path: Path) -> str:
    """Decode a text file: UTF-8 with or without a byte-order mark, or UTF-16 with one; never a code page.

    Raises:
        DataError: Other bytes, or a NUL, which no text has; names the file and the offset.
    """
    mark, encoding = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", "utf-8"))
    try:
        text = data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        offset = error.start + len(mark)
        raise DataError(f"{path} is not {encoding.upper()} at byte {offset}", hint="save it as UTF-8") from None
    if "\0" in text:
        offset = len(mark) + len(text[: text.index("\0")].encode(encoding))
        raise DataError(f"{path} is no text: a NUL at byte {offset}", hint="save it as UTF-8")
    return text


def read_text(path: Path, most_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file.

    Args:
        path: The file.
        most_bytes: A longer one is refused.

    Raises:
        DataError: It is missing, too long, or not Unicode.
    """
    data = _read_start(path, most_bytes + 1)
    if len(data) > most_bytes:
        raise DataError(f"{path} is longer than {most_bytes} bytes", hint="shorten it")
    return decode_text(data, path)


def plain_line(data: bytes) -> str:
    """Give a caption that is one printable line of UTF-8, as nearly all are; empty: it takes a closer look."""
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        return ""
    return text if text.isprintable() and len(data) <= MAX_CAPTION_BYTES else ""


def read_caption(data: bytes, path: Path, notes: list[str]) -> str:
    """Read what a caption file holds; see `clean_lines`.

    Args:
        data: Its first `MOST_FILE_BYTES`.
        path: The file, for messages.
        notes: Receives what was left out.

    Raises:
        DataError: It is not Unicode, or longer than 8 KB.
    """
    if len(data) >= MOST_FILE_BYTES:
        raise _too_long(str(path))
    return clean_lines(decode_text(data, path), str(path), notes)


def clean_caption(text: str, where: str, notes: list[str]) -> str:
    """Give a caption's lines as `clean_lines` does, and refuse one without any.

    Raises:
        DataError: Nothing is left, or it is longer than 8 KB.
    """
    caption = clean_lines(text, where, notes)
    if not caption:
        raise DataError(f"the caption in {where} is empty", hint="write one; data.captions=empty trains without any")
    return caption


def clean_lines(text: str, where: str, notes: list[str]) -> str:
    r"""Give the lines of a caption, joined by `\n`, without control characters and without empty lines.

    Args:
        text: The caption as found.
        where: What is named in messages.
        notes: Receives what was left out.

    Raises:
        DataError: It is longer than 8 KB.
    """
    if len(text.encode("utf-8", "replace")) > MAX_CAPTION_BYTES:
        raise _too_long(where)
    spaced = [line.replace("\t", " ").strip() for line in text.splitlines()]
    lines = ["".join(letter for letter in line if unicodedata.category(letter) != "Cc").strip() for line in spaced]
    if any(len(line) < len(before) for line, before in zip(lines, spaced, strict=True)):
        notes.append(f"{where}: control characters left out")
    return "\n".join(line for line in lines if line)


def use_lines(caption: str, rule: CaptionLines) -> str:
    """Give what of a caption's lines is used: the first, all of them as one, or (`draw`) all of them as they are.

    Lines that become one have a comma between them, unless a line ends with a mark of its own.
    """
    lines = caption.split("\n")
    if rule == "draw":
        return caption
    if rule == "first":
        return lines[0]
    return " ".join([*(line if line[-1] in _ENDS else f"{line}," for line in lines[:-1]), lines[-1]])


def _read_start(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except FileNotFoundError:
        raise DataError(f"no file {path}", hint="check the path") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", hint="check its permissions") from error


def _too_long(where: str) -> DataError:
    return DataError(f"the caption in {where} is longer than {MAX_CAPTION_BYTES} bytes", hint="shorten it")
