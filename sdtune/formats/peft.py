"""LoRA as diffusers and PEFT write it: `unet.….lora_A.weight` (down) and `.lora_B.weight` (up).

There is no alpha among the tensors: the factor is 1, unless the metadata's entry `lora_adapter_metadata`, which
diffusers writes and reads since 0.35, tells another.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from sdtune.formats.low_rank import LowRank

METADATA_KEY = "lora_adapter_metadata"
Settings = Mapping[str, Any]
_SPECIAL = re.compile(r"[*+?\[\](){}|\\$]")


def read_settings(metadata: Mapping[str, str], where: str) -> Settings:
    """Read diffusers' metadata of a file; empty where there is none.

    Raises:
        ModelError: It cannot be read, or names layers by patterns.
    """
    try:
        settings = json.loads(metadata.get(METADATA_KEY, "{}"))
        patterns = [_numbers(value or {}) for key, value in settings.items() if key.endswith(".alpha_pattern")]
        _numbers({key: value for key, value in settings.items() if key.endswith(".lora_alpha")})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"its metadata '{METADATA_KEY}' cannot be read", where=where) from error
    if any(_SPECIAL.search(name) for pattern in patterns for name in pattern):
        raise ModelError(f"its metadata '{METADATA_KEY}' names layers by patterns, which are not read", where=where)
    return dict(settings)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


def find_alpha(path: str, rank: int, settings: Settings) -> float:
    """Give the alpha of a layer; rsLoRA's factor alpha / sqrt(rank) (Kalajdzievski 2023) is put into it."""
    component, _, module = path.partition(".")
    if f"{component}.lora_alpha" not in settings:
        return float(rank)
    patterns = settings.get(f"{component}.alpha_pattern") or {}
    fitting = [value for key, value in patterns.items() if f".{module}".endswith(f".{key.removeprefix('^')}")]
    alpha = float(fitting[0] if fitting else settings[f"{component}.lora_alpha"])
    return alpha * math.sqrt(rank) if settings.get(f"{component}.use_rslora") else alpha


def write(layers: Iterable[LowRank]) -> dict[str, Tensor]:
    """Name the tensors of layers, their scale multiplied into `lora_B`: so every reader gets the effect."""
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors[f"{layer.path}.lora_A.weight"] = layer.down
        tensors[f"{layer.path}.lora_B.weight"] = layer.folded_up
    return tensors


def write_unfolded(layers: Iterable[LowRank]) -> dict[str, Tensor]:
    """Name the tensors of layers as they are; `describe` must go with them."""
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        tensors[f"{layer.path}.lora_A.weight"] = layer.down
        tensors[f"{layer.path}.lora_B.weight"] = layer.up
    return tensors


def describe(layers: Sequence[LowRank]) -> dict[str, str]:
    """Give the metadata that tells diffusers each layer's rank and alpha."""
    settings = {
        f"{component}.{key}": value
        for component in dict.fromkeys(layer.component for layer in layers)
        for key, value in _config([layer for layer in layers if layer.component == component]).items()
    }
    return {METADATA_KEY: json.dumps(settings, sort_keys=True)}


def _config(layers: Sequence[LowRank]) -> dict[str, Any]:
    """Give the arguments of PEFT's `LoraConfig`."""
    # transformers 5 has no `text_model.`, and PEFT compares the ends of names
    names = {layer.module.removeprefix("text_model."): layer for layer in layers}
    rank = Counter(layer.rank for layer in layers).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in layers).most_common(1)[0][0]
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: layer.rank for name, layer in names.items() if layer.rank != rank},
        "alpha_pattern": {name: layer.alpha for name, layer in names.items() if layer.alpha != alpha},
        "target_modules": sorted(names),
    }
