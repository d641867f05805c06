"""Count tokens where there is no tokenizer: an estimate."""

from __future__ import annotations

import math
import re

PIECE = 75  # tokens that a text encoder reads at once
_PART = re.compile(r"[^\W\d_]+|\d|[^\w\s]+|_")
_LETTERS = 8  # of a word that is usually one token
_MORE_LETTERS = 4  # of each further token


class EstimatedTokens:
    """Guesses the tokens of English text: a usual word is one, a long or made-up one is several.

    Args:
        chunks: Pieces of 75 tokens that are read, as `model.chunks`.
    """

    def __init__(self, chunks: int = 1) -> None:
        self._room = PIECE * chunks

    def count_tokens(self, caption: str) -> int:
        """Guess how many tokens a text has."""
        return sum(_guess(part) for part in _PART.findall(caption))

    def count_cut(self, caption: str) -> int:
        """Guess how many tokens find no room."""
        return max(0, self.count_tokens(caption) - self._room)


def _guess(part: str) -> int:
    if not part.isascii():
        return 2 * len(part)  # bytes of other scripts are mostly tokens of their own
    return 1 + max(0, math.ceil((len(part) - _LETTERS) / _MORE_LETTERS))
