"""Models by their Hugging Face id, `owner/name`: from the cache that every program shares, else downloaded into it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.errors import ModelError
from sdtune.models.weights import WEIGHT_SUFFIXES, weight_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_INDEX = "model_index.json"
_TEXTS = re.compile(r"(?:scheduler|tokenizer|tokenizer_2|unet|vae|text_encoder|text_encoder_2)/[^/]+\.(?:json|txt)")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/\w[\w.-]*")


def is_id(path: str) -> bool:
    """Tell whether `model.path` could be an id of the hub; a name of a file with weights is none."""
    return _ID.fullmatch(path) is not None and Path(path).suffix.lower() not in {*WEIGHT_SUFFIXES, ".json"}


def find_on_hub(identifier: str) -> Path:
    """Give the folder of a model in the Hugging Face cache, downloaded if it is not there.

    What is in the cache is used as it is, so that a run goes on with the weights it began with. The folder's name is
    the commit.

    Raises:
        ModelError: There is no such model, it is not a diffusers model, or there is no network.
    """
    from huggingface_hub import constants

    cached = _find_cached(identifier)
    if cached is not None:
        return cached
    if constants.HF_HUB_OFFLINE:
        raise ModelError(
            f"there is no file or folder {identifier}, and no such model in the Hugging Face cache",
            where="model.path",
            hint=f"check the path; or, with a network, run 'hf download {identifier}' once",
        )
    return _download(identifier)


def _find_cached(identifier: str) -> Path | None:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{identifier.replace('/', '--')}"
    reference = folder / "refs" / "main"
    commits = [reference.read_text(encoding="ascii").strip()] if reference.is_file() else []
    others = sorted(path.name for path in folder.glob("snapshots/*"))
    snapshots = (folder / "snapshots" / Path(commit).name for commit in [*commits, *others])
    return next((snapshot for snapshot in snapshots if _is_complete(snapshot)), None)


def _is_complete(snapshot: Path) -> bool:
    """Tell whether each part that a snapshot's index names has weights: programs fetch what they need of a model."""
    try:
        parts = {name for name in json.loads((snapshot / _INDEX).read_text(encoding="utf-8")) if name in _STEMS}
    except (OSError, ValueError, TypeError):
        return False
    names = [path.relative_to(snapshot).as_posix() for path in snapshot.glob("*/*") if path.is_file()]
    return all(choose_weights(part, names) for part in parts)


def _download(identifier: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().model_info(identifier, timeout=10)
        names = [file.rfilename for file in info.siblings or []]
        if _INDEX not in names:
            raise ModelError(
                f"{identifier} on the hub is no diffusers model: it has no {_INDEX}",
                where="model.path",
                hint="download its .safetensors file, and give the path",
            )
        return Path(snapshot_download(identifier, revision=info.sha, allow_patterns=choose_files(names)))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{identifier} is no file or folder here, and cannot be downloaded: {type(error).__name__}",
            where="model.path",
            hint=f"check the name and the network; a private model needs 'hf auth login' ({_first_line(error)})",
        ) from error


def choose_files(names: Collection[str]) -> list[str]:
    """Choose what to download of a diffusers model: configurations, and each part's weights in one form alone."""
    texts = [name for name in names if name == _INDEX or (_TEXTS.fullmatch(name) and ".index." not in name)]
    return [*texts, *(file for part in _STEMS for file in choose_weights(part, names))]


def choose_weights(part: str, names: Iterable[str]) -> list[str]:
    """Choose the files of a part's weights, in the order of `weights.weight_names`; those of an index with it."""
    own = {name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")}
    best = next((name for name in weight_names(_STEMS[part]) if name in own), None)
    if best is None:
        return []
    shards = sorted(name for name in own if _is_shard(name, best)) if best.endswith(".json") else []
    return [f"{part}/{name}" for name in (best, *shards)]


def _is_shard(name: str, index: str) -> bool:
    """Tell whether a file is one of an index's: the same stem, variant and suffix, with its number and their count."""
    words = [word for word in index.split(".") if word not in ("index", "json")]
    bare, count = re.subn(r"-\d+-of-\d+", "", name)
    return count == 1 and sorted(bare.split(".")) == sorted(words)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:200]
