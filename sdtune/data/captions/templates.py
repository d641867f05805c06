"""Placeholders, wildcards and files of prompt templates: texts in which something is put."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdtune.data.captions.files import clean_caption, read_text
from sdtune.data.captions.prompts import FILEWORDS
from sdtune.errors import DataError, Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NAME = "[name]"  # as webui writes it, like `[filewords]`; `{name}` and `{caption}` stand for the same
_PLACEHOLDER = re.compile(r"(?<!{){\s*(?P<name>[^\W\d][\w-]*)\s*(?::\s*(?P<weight>\d+\.?\d*|\.\d+)\s*)?}(?!})")
_WILDCARD = re.compile(r"{([^{}]+)}")
_BRACES = {"{{": "\0", "}}": "\1"}  # control characters: no caption has them


def read_templates(path: Path) -> tuple[str, ...]:
    """Read a file of prompt templates: one in a line; empty lines are left out.

    Raises:
        DataError: It cannot be read, is not Unicode, or holds no line.
    """
    problems, notes = Problems(DataError), list[str]()
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if line.strip():
            with problems.collect():
                lines.append(clean_caption(line, f"line {number} of {path}", notes))
    if not lines:
        problems.add(f"{path} holds no template", hint="write one a line, e.g. a photo of a [name], [filewords]")
    problems.raise_if_any()
    return tuple(lines)


def placeholders(text: str) -> set[str]:
    """Name the placeholders in a text."""
    return {match["name"] for match in _PLACEHOLDER.finditer(text)}


def uses_caption(line: str) -> bool:
    """Tell whether a template has a place for the image's own caption."""
    return FILEWORDS in line or "caption" in placeholders(line)


def fill_line(line: str, caption: str, words: Mapping[str, str]) -> str:
    """Fill in a line of a template: the image's caption, and words by name; what has no word becomes nothing."""
    written = line.replace(FILEWORDS, "{caption}").replace(NAME, "{name}")
    return put_words(written, {**words, "caption": caption})


def put_words(text: str, words: Mapping[str, str]) -> str:
    """Put words into their places: `{pt1}`, and `{pt1:1.2}` with a weight; a place without a word becomes nothing."""
    is_gone = False

    def word(match: re.Match[str]) -> str:
        nonlocal is_gone
        found = words.get(match["name"], "")
        is_gone = is_gone or not found
        return f"({found}:{match['weight']})" if found and match["weight"] else found

    filled = _PLACEHOLDER.sub(word, text)
    return _tidied(filled) if is_gone else filled


def draw_wildcards(text: str, draw: Callable[[str, list[str]], str]) -> str:
    """Replace each `{a|b}` by one of its parts, from left to right; `{{` and `}}` are braces.

    Args:
        text: A caption.
        draw: Gives one of the parts; it is told the number of the wildcard, as text.
    """
    for brace, letter in _BRACES.items():
        text = text.replace(brace, letter)
    found = list(_WILDCARD.finditer(text))
    for number, match in reversed(list(enumerate(found))):
        text = text[: match.start()] + draw(str(number), match[1].split("|")) + text[match.end() :]
    for brace, letter in _BRACES.items():
        text = text.replace(letter, brace[0])
    return text


def _tidied(text: str) -> str:
    """Leave out the commas and spaces around what is gone."""
    return re.sub(r"\s+", " ", re.sub(r"\s*,[\s,]*", ", ", text)).strip(" ,")
