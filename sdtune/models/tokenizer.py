"""A model's tokenizer: a folder of its own, else CLIP's, which comes with sdtune."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models import libraries, vocabulary

if TYPE_CHECKING:
    from pathlib import Path

MAX_LENGTH = 77
OPENCLIP_PAD = "!"  # token 0 of CLIP's vocabulary
_CONFIG, _SPECIALS = "tokenizer_config.json", "special_tokens_map.json"
_FILES = ("vocab.json", "merges.txt", "tokenizer.json", _CONFIG, _SPECIALS)


def find_tokenizer(model: Path, given: Path | None, rows: int) -> Path | None:
    """Find the folder of a model's tokenizer; None: it has none, and CLIP's is its own.

    Args:
        model: A single file, beside which the folder `tokenizer` may lie, or a diffusers folder, which may hold it.
        given: `model.tokenizer`, which comes first.
        rows: Tokens that the text encoder has vectors for; more than CLIP's are tokens that were added.

    Raises:
        ModelError: What is given holds none; or there is none, and the text encoder is too small for CLIP's.
    """
    if given is not None:
        if _holds_tokenizer(given):
            return given
        raise ModelError(
            f"{given} has no vocab.json with merges.txt, and no tokenizer.json",
            where="model.tokenizer",
            hint="name a diffusers model's folder 'tokenizer'",
        )
    own = (model if model.is_dir() else model.parent) / "tokenizer"
    if _holds_tokenizer(own):
        return own
    if rows < vocabulary.SIZE:
        raise ModelError(
            f"the text encoder has {rows:,} tokens, CLIP's tokenizer {vocabulary.SIZE:,}: another one belongs to it",
            where=str(model),
            hint="put its folder beside the file as 'tokenizer', or name it: model.tokenizer",
        )
    return None


def _holds_tokenizer(folder: Path) -> bool:
    has_pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return has_pair or (folder / "tokenizer.json").is_file()  # transformers 5 writes one file


def open_tokenizer(folder: Path | None, rows: int) -> Any:
    """Load the `CLIPTokenizer` of transformers.

    Args:
        folder: As `find_tokenizer` gives it.
        rows: Tokens that the text encoder has vectors for.

    Raises:
        ModelError: It cannot be read, or does not belong to this text encoder.
    """
    if folder is None:
        return _clip_tokenizer()
    try:
        tokenizer = libraries.tokenizer_class().from_pretrained(folder, local_files_only=True)
    except Exception as error:  # for damaged files tokenizers 0.23 raises nothing narrower
        raise ModelError(f"the tokenizer {folder} cannot be read: {error}") from error
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer {folder} has {len(tokenizer):,} tokens, the text encoder {rows:,}",
            hint="give the model's own tokenizer: model.tokenizer",
        )
    # a folder without a configuration has no length; SD's text encoders have 77 positions
    tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_LENGTH)
    return tokenizer


def _clip_tokenizer() -> Any:
    merges = vocabulary.read_merges()
    return libraries.tokenizer_class()(
        vocab=vocabulary.number_tokens(merges), merges=merges, model_max_length=MAX_LENGTH
    )


def tokenizer_files(folder: Path | None, pad: str = vocabulary.END) -> dict[str, bytes]:
    """Give the files of a tokenizer folder: name to content, readable by transformers 4 and 5.

    Args:
        folder: As from `find_tokenizer`.
        pad: The token that fills a caption up.
    """
    marks = {"bos_token": vocabulary.START, "eos_token": vocabulary.END, "unk_token": vocabulary.END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, **marks}
    files = {_CONFIG: json.dumps(config, indent=2).encode(), **(_read(folder) if folder else _clip_files())}
    return {
        name: _with_pad(content, pad) if name in (_CONFIG, _SPECIALS) else content for name, content in files.items()
    }


def _read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in _FILES if (folder / name).is_file()}


def _clip_files() -> dict[str, bytes]:
    merges = vocabulary.read_merges()
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    numbers = json.dumps(vocabulary.number_tokens(merges), ensure_ascii=False)
    return {"vocab.json": numbers.encode(), "merges.txt": f"#version: 0.2\n{lines}".encode()}


def _with_pad(content: bytes, pad: str) -> bytes:
    """Name the padding in a tokenizer's configuration, and leave the file as it is where it is named already."""
    config = json.loads(content)
    named = config.get("pad_token")
    if pad == (named["content"] if isinstance(named, dict) else named):
        return content
    return json.dumps({**config, "pad_token": pad}, indent=2, ensure_ascii=False).encode()
