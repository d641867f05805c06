"""Captions longer than what the text encoder reads: how many, and which words it never sees."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Count = Callable[[str], int]

PIECE = 75
"""Tokens in a piece of a caption; a model may read up to four pieces."""
MOST_PIECES = 4
_WORD = re.compile(r"[\w']+|\S", re.ASCII)  # each letter beyond ASCII stands for itself
_SHOWN, _LONG_WORD, _TRIED = 60, 30, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class CutCaption:
    """A caption of which the text encoder reads the beginning alone.

    Attributes:
        name: The first image that has it.
        caption: All of it.
        tokens: Its tokens.
        cut: Those that are not read.
        lost: The words that are not read.
        images: Images that have it.
    """

    name: str
    caption: str
    tokens: int
    cut: int
    lost: str
    images: int

    def __str__(self) -> str:
        shown = self.lost if len(self.lost) <= _SHOWN else f"{self.lost[:_SHOWN]}..."
        return f"{self.name} loses {self.cut} of {self.tokens}, {shown!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionLengths:
    """How long the captions of a data set are.

    Attributes:
        captions: All, one for each image.
        longest: Tokens of the longest one.
        longer: Limit (75, 150, 225 tokens) to the number of captions above it.
        cut: Captions that are cut, the one that loses most first.
    """

    captions: int
    longest: int
    longer: dict[int, int]
    cut: tuple[CutCaption, ...]


def measure_captions(captions: Iterable[tuple[str, str]], count_tokens: Count, count_cut: Count) -> CaptionLengths:
    """Measure captions.

    Args:
        captions: Names of images and their captions.
        count_tokens: Counts a caption's tokens, e.g. `DiffusionModel.count_tokens`.
        count_cut: Counts those that find no room, e.g. `DiffusionModel.count_cut`.
    """
    first: dict[str, str] = {}
    images: Counter[str] = Counter()
    for name, caption in captions:
        first.setdefault(caption, name)
        images[caption] += 1
    tokens = {caption: count_tokens(caption) for caption in images}
    cut = [
        CutCaption(
            name=first[caption],
            caption=caption,
            tokens=tokens[caption],
            cut=places,
            lost=lost_words(caption, count_cut),
            images=count,
        )
        for caption, count in images.items()
        if (places := count_cut(caption))
    ]
    limits = [PIECE * number for number in range(1, MOST_PIECES)]
    return CaptionLengths(
        captions=images.total(),
        longest=max(tokens.values(), default=0),
        longer={limit: sum(images[caption] for caption in images if tokens[caption] > limit) for limit in limits},
        cut=tuple(sorted(cut, key=lambda found: -found.cut)),
    )


def lost_words(caption: str, count_cut: Count) -> str:
    """Give the words that are not read: those behind the longest beginning of which nothing is cut."""
    ends = [0, *(match.end() for match in _WORD.finditer(caption))]
    over = bisect_left(ends, 1, key=lambda end: count_cut(caption[:end]))
    # half a weight, `(red:1`, has more tokens than all of it, so that one more may fit behind one that does not
    end = max(end for end in ends[over - 1 : over + _TRIED] if not count_cut(caption[:end]))
    start = caption.rfind(" ", 0, end) + 1
    is_within = re.match(r"[^\s,;.!?]", caption[end:], re.ASCII) and caption[end].isascii()
    return caption[start if is_within and end - start < _LONG_WORD else end :].strip(" ,")
