"""CLIP's vocabulary, as OpenAI published it with its model (Radford et al. 2021)."""

from __future__ import annotations

import gzip
from itertools import chain, islice
from pathlib import Path

PUBLISHED = Path(__file__).with_name("clip") / "bpe_simple_vocab_16e6.txt.gz"
SIZE = 49408
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """List the 256 characters that stand for bytes, in CLIP's order: printable Latin-1 first, then stand-ins."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def number_tokens(merges: list[tuple[str, str]]) -> dict[str, int]:
    """Number the tokens as CLIP does: bytes, bytes that end a word, merged pairs, start and end."""
    symbols = byte_symbols()
    ends = [symbol + "</w>" for symbol in symbols]
    tokens = chain(symbols, ends, ("".join(pair) for pair in merges), (START, END))
    return {token: index for index, token in enumerate(tokens)}


def read_merges() -> list[tuple[str, str]]:
    """Read the 48,894 merges that CLIP uses; the file goes on with 213,250 that it does not."""
    count = SIZE - len(number_tokens([]))
    with gzip.open(PUBLISHED, "rt", encoding="utf-8") as lines:
        return [(left, right) for left, right in map(str.split, islice(lines, 1, count + 1))]
