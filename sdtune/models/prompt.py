r"""How A1111's webui reads a prompt: words with weights, then pieces of 75 tokens, as plain data.

    prompt  = { text | group | escape | "BREAK" }
    group   = "(" prompt ")"                      times 1.1
            | "(" prompt ":" number ")"           times the number
            | "[" prompt "]"                      divided by 1.1
            | "{" prompt "}"                      times 1.05, as NovelAI reads it; in webui braces are letters
            | "{" prompt ":" number "}"           times the number
    escape  = "\" followed by a bracket or "\"    that letter; any other "\" is dropped

What is open at the end is closed there; what closes nothing is a letter. Each kind of bracket is matched by itself, so
that `(a [b) c]` is no mistake. Prompt editing (`[a:b:0.5]`, `a AND b`) belongs to a picture's steps: not read here.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_FACTORS = {"(": 1.1, "[": 1 / 1.1, "{": 1.05}
_OPENS = {")": "(", "]": "[", "}": "{"}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_LEXEME = re.compile(
    rf"""
    \\(?P<escaped>[()\[\]{{}}\\]?)
    | (?P<opening>[(\[{{])
    | (?: : \s* (?P<number>{_NUMBER}) \s* )? (?P<closing>[)}}])
    | (?P<square>\])
    | (?P<break>\s*\bBREAK\b\s*)
    | (?P<text> : | (?: (?!\s*\bBREAK\b) [^\\()\[\]{{}}:] )+ )
    """,
    re.VERBOSE,
)
_BACKTRACK = 20  # tokens between a piece's end and a comma at which it is ended instead; webui's default


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of text of one weight."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Unit:
    """What is never cut in two: a token, or all the vectors of a word.

    Attributes:
        ids: One id for each place it takes.
        weight: What its hidden states are multiplied by.
        is_comma: Whether a piece may end behind it.
    """

    ids: tuple[int, ...]
    weight: float = 1.0
    is_comma: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A piece between its marks, as long as the text encoder's window.

    Attributes:
        ids: L token ids: start mark, units, end mark, padding.
        weights: L factors; 1 for marks and padding.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A caption as a text encoder is given it.

    Attributes:
        rows: Its pieces, at least one.
        count: Places the whole caption takes, without marks.
        cut: Those that found no room.
    """

    rows: tuple[Row, ...]
    count: int
    cut: int


@dataclass(frozen=True, slots=True)
class Marks:
    """The ids around a piece.

    Attributes:
        start: Id of the start mark.
        end: Id of the end mark.
        pad: Id that fills the rest: the end mark's in CLIP-L, 0 in OpenCLIP's encoders.
    """

    start: int
    end: int
    pad: int


@dataclass(frozen=True, slots=True)
class _Bracket:
    places: range
    factor: float


def parse_weights(prompt: str) -> list[list[Span]]:
    """Read weights: a list of sections, `BREAK` between them, each a list of spans; neighbours differ in weight."""
    texts, brackets = _scan(prompt)
    sections: list[list[Span]] = [[]]
    for place, text in enumerate(texts):
        if text is None:
            sections.append([])
        else:
            weight = math.prod((b.factor for b in brackets if place in b.places), start=1.0)
            sections[-1].append(Span(text, weight))
    return [_merge(section) for section in sections]


def _scan(prompt: str) -> tuple[list[str | None], list[_Bracket]]:
    """Give the texts between brackets, None for a break; and the brackets, the first one closed first."""
    texts: list[str | None] = []
    brackets: list[_Bracket] = []
    starts: dict[str, list[int]] = {kind: [] for kind in _FACTORS}
    for lexeme in _LEXEME.finditer(prompt):
        closing = lexeme["closing"] or lexeme["square"]
        kind = _OPENS.get(closing, "")
        if lexeme["opening"]:
            starts[lexeme["opening"]].append(len(texts))
        elif closing and starts[kind]:
            factor = float(lexeme["number"] or _FACTORS[kind])
            brackets.append(_Bracket(range(starts[kind].pop(), len(texts)), factor))
        elif lexeme["break"]:
            texts.append(None)
        else:
            texts.append(lexeme[0] if lexeme["escaped"] is None else lexeme["escaped"])
    for kind, left in starts.items():
        brackets += [_Bracket(range(start, len(texts)), _FACTORS[kind]) for start in left]
    return texts, brackets


def _merge(spans: Iterable[Span]) -> list[Span]:
    runs = groupby(spans, key=lambda span: span.weight)
    return [Span("".join(span.text for span in run), weight) for weight, run in runs]


def split(sections: Sequence[Sequence[Unit]], *, room: int, most: int) -> tuple[list[list[Unit]], int]:
    """Split a prompt into pieces.

    A section begins a piece. A full piece ends behind the last comma, if that is among its last 20 tokens and no comma
    follows; the last piece that is allowed is filled to its end.

    Args:
        sections: At least one; no unit takes more than `room` places.
        room: Places in a piece, without the start and end marks.
        most: Pieces that are allowed.

    Returns:
        One to `most` pieces, and the number of places that found no room.
    """
    left = [list(section) for section in sections]
    if len(left) > 1 and not left[-1]:
        left.pop()  # a BREAK at the end opens nothing
    pieces: list[list[Unit]] = []
    while left and len(pieces) < most:
        section = left.pop(0)
        count = _count_fitting(section, room)
        if len(pieces) < most - 1:
            count = _back_to_comma(section, count, room)
        pieces.append(section[:count])
        if count < len(section):
            left.insert(0, section[count:])
    return pieces, count_places(unit for section in left for unit in section)


def read_pieces(sections: Sequence[Sequence[Unit]], *, length: int, most: int, marks: Marks) -> Reading:
    """Read a caption's sections as rows.

    Args:
        sections: As for `split`.
        length: Of a row, L, marks included.
        most: Pieces that are allowed.
        marks: The ids around a piece.
    """
    pieces, cut = split(sections, room=length - 2, most=most)
    rows = tuple(fill_row(piece, length, marks) for piece in pieces)
    return Reading(rows, count=count_places(unit for section in sections for unit in section), cut=cut)


def fill_row(units: Sequence[Unit], length: int, marks: Marks) -> Row:
    """Put marks around a piece, and fill it up to a length."""
    ids = [marks.start, *(number for unit in units for number in unit.ids), marks.end]
    weights = [1.0, *(unit.weight for unit in units for _ in unit.ids)]
    padding = length - len(ids)
    return Row((*ids, *[marks.pad] * padding), (*weights, *[1.0] * (1 + padding)))


def count_places(units: Iterable[Unit]) -> int:
    """Count the places units take."""
    return sum(len(unit.ids) for unit in units)


def _count_fitting(units: Sequence[Unit], room: int) -> int:
    return bisect_right(list(accumulate(len(unit.ids) for unit in units)), room)


def _back_to_comma(units: Sequence[Unit], count: int, room: int) -> int:
    if count == len(units) or units[count].is_comma or count_places(units[:count]) < room:
        return count
    for end in range(count, 0, -1):
        if units[end - 1].is_comma and count_places(units[end - 1 : count]) <= _BACKTRACK:
            return end
    return count
