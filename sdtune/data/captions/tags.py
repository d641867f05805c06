"""Tags of a caption at one visit: which stay in place, how many there are yet, which are left out, in which order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from sdtune.config.data import DataOptions

_PAIRS = {")": "(", "]": "[", "}": "{"}
_BRACKET = re.compile(r"\\.|[()\[\]{}]")


_WEIGHT = re.compile(r"(?<!\\)[({][^(){}]*:\s*\d*\.?\d+\s*[)}]")


@dataclass(frozen=True, slots=True)
class Tags:
    """Tags of a caption.

    Attributes:
        front: They stay where they are.
        free: They are shuffled and left out.
        back: They stay where they are.
    """

    front: Sequence[str]
    free: Sequence[str]
    back: Sequence[str] = ()

    def __str__(self) -> str:
        return ", ".join([*self.front, *self.free, *self.back])


def has_weights(text: str) -> bool:
    """Tell whether a text has a word with a weight: `(word:1.3)`."""
    return _WEIGHT.search(text) is not None


def part_tags(text: str, options: DataOptions, *, keeps_brackets: bool) -> Tags:
    """Part a caption into tags, by `keep_separator` where it stands in it, else by the number `keep_tags`.

    Args:
        text: A caption.
        options: Those of its folder.
        keeps_brackets: A weighted group such as `(red, blue:1.3)` is one tag.
    """

    def tags(part: str) -> list[str]:
        ends = _separators(part, options.tag_separator, keeps_brackets=keeps_brackets)
        return [tag.strip() for tag in _cut(part, ends, len(options.tag_separator))]

    mark = options.keep_separator
    if mark and mark in text:
        front, free, back = (*text.split(mark, 2), "")[:3]
        return Tags(*([tag for tag in tags(part) if tag] for part in (front, free, back)))
    found = tags(text)
    return Tags(found[: options.keep_tags], found[options.keep_tags :])


def first_tags(tags: Sequence[str], least: int, step: int, steps: int) -> Sequence[str]:
    """Give the tags of a warm-up: `least` at step 0, all from step `steps` on, in a straight line; sd-scripts' rule."""
    return tags if step >= steps else tags[: step * (len(tags) - least) // steps + least]


def drop_tags(tags: Sequence[str], rate: float, draws: Random) -> list[str]:
    """Leave out each tag with probability `rate`; one draw each."""
    return [tag for tag in tags if draws.random() >= rate]


def shuffle_tags(tags: Sequence[str], draws: Random) -> list[str]:
    """Give tags in another order, empty ones left out."""
    shuffled = [tag for tag in tags if tag]
    draws.shuffle(shuffled)
    return shuffled


def _separators(text: str, separator: str, *, keeps_brackets: bool) -> Iterator[int]:
    """Give the places of separators, those between brackets that belong together left out if they are kept."""
    inside = _bracketed(text) if keeps_brackets else []
    start = text.find(separator)
    while start >= 0:
        if not any(start in places for places in inside):
            yield start
        start = text.find(separator, start + len(separator))


def _cut(text: str, places: Iterator[int], width: int) -> Iterator[str]:
    start = 0
    for place in places:
        yield text[start:place]
        start = place + width
    yield text[start:]


def _bracketed(text: str) -> list[range]:
    """Find what stands between brackets; each kind is matched by itself, as where prompts are read for weights."""
    starts: dict[str, list[int]] = {kind: [] for kind in _PAIRS.values()}
    found = []
    for match in _BRACKET.finditer(text):
        if match[0] in starts:
            starts[match[0]].append(match.start())
        elif (kind := _PAIRS.get(match[0])) and starts[kind]:
            found.append(range(starts[kind].pop(), match.start()))
    return found
