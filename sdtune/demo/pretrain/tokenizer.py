"""The tokenizer stage: a byte-level BPE in CLIP's file format, learned from captions."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from typing import TYPE_CHECKING, cast

from transformers import CLIPTokenizer

from sdtune.demo.captions import caption
from sdtune.demo.scenes import sample_scene

if TYPE_CHECKING:
    from pathlib import Path

MAX_LENGTH = 77
_SEED = 12
_CAPTIONS = 20_000
_MERGES = 320
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """Return the 256 printable characters that stand for the bytes, in CLIP's (and GPT-2's) order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]


def learn_merges(words: Counter[str], count: int) -> list[tuple[str, str]]:
    """Return the byte-pair merges of a word count (Sennrich et al. 2016, algorithm 1); ties: the first in order."""
    split = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in split.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = {word: _merged(symbols, best) for word, symbols in split.items()}
    return merges


def _merged(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def _word_counts() -> Counter[str]:
    counts: Counter[str] = Counter()
    for index in range(_CAPTIONS):
        text = caption(sample_scene(_SEED, index), 0).text.replace(",", " ,").replace("-", " - ")
        counts.update(text.split())
    # nonsense words are rare one by one: a merge must stand for a word of the language
    return Counter({word: count for word, count in counts.items() if count >= 20})


def make_tokenizer(work: Path) -> CLIPTokenizer:
    """Learn the merges, write vocab.json and merges.txt, and return the tokenizer that loads them."""
    folder = work / "tokenizer"
    if not (folder / "merges.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        merges = learn_merges(_word_counts(), _MERGES)
        symbols = byte_symbols()
        entries = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
        vocabulary = {entry: index for index, entry in enumerate(entries)}
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"),
        unk_token=END, bos_token=START, eos_token=END, pad_token=END, model_max_length=MAX_LENGTH,
    )  # fmt: skip
    made.save_pretrained(folder)
    return cast("CLIPTokenizer", CLIPTokenizer.from_pretrained(folder))
