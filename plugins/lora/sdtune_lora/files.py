"""LoRA as kohya-style tensors, out and in."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from sdtune.api import ConfigError, ModelError, Problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from sdtune_lora.layers import LoraLayer

SUFFIXES = ("lora_down.weight", "lora_up.weight", "alpha")
# Alpha is written as float32 here, but half precision is common elsewhere.
ALPHA_TOLERANCE = 0.005
SHOWN = 3


def to_tensors(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    """Name the tensors of layers as webui, ComfyUI, sd-scripts and diffusers read them.

    Args:
        layers: Key such as `lora_unet_down_blocks_0_...` to layer.
    """
    tensors: dict[str, Tensor] = {}
    for key, layer in layers.items():
        tensors[f"{key}.lora_down.weight"] = layer.lora_down.detach()
        tensors[f"{key}.lora_up.weight"] = layer.lora_up.detach()
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    return tensors


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file.

    Raises:
        ConfigError: There is no such file.
        ModelError: It is not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"lora.from_file: no file {path}")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ModelError(f"not a readable .safetensors file: {error}", where=str(path)) from error
    return tensors


@torch.no_grad()
def load_tensors(layers: Mapping[str, LoraLayer], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Set layers from kohya-style tensors: the inverse of `to_tensors`, exact in float32.

    Args:
        layers: Key to layer.
        tensors: Name to tensor, of exactly these layers; a missing alpha means the rank, as every reader takes it.
        where: The file, for messages.

    Raises:
        ModelError: Layers are missing or not trained in this run, or ranks, alphas or shapes differ; all are told.
    """
    problems = Problems(ModelError)
    _check_names(layers, tensors, problems, where=where)
    for key, layer in layers.items():
        if f"{key}.lora_down.weight" in tensors and f"{key}.lora_up.weight" in tensors:
            _check_layer(key, layer, tensors, problems, where=where)
    problems.raise_if_any()
    for key, layer in layers.items():
        layer.lora_down.copy_(tensors[f"{key}.lora_down.weight"])
        layer.lora_up.copy_(tensors[f"{key}.lora_up.weight"])


def _check_names(
    layers: Mapping[str, LoraLayer], tensors: Mapping[str, Tensor], problems: Problems, *, where: str
) -> None:
    wanted = [f"{key}.{suffix}" for key in layers for suffix in SUFFIXES]
    missing = [name for name in wanted if name not in tensors and not name.endswith(".alpha")]
    extra = sorted(tensors.keys() - set(wanted))
    if missing:
        problems.add(f"misses {_some(missing)}", where=where, hint="train the same layers as the file has")
    if extra:
        problems.add(
            f"holds {_some(extra)}, which this run does not train",
            where=where,
            hint="look at lora.unet, lora.text_encoder, lora.conv_rank and lora.targets",
        )


def _check_layer(key: str, layer: LoraLayer, tensors: Mapping[str, Tensor], problems: Problems, *, where: str) -> None:
    down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
    alpha = float(tensors[f"{key}.alpha"]) if f"{key}.alpha" in tensors else float(len(down))
    if len(down) != layer.rank:
        problems.add(f"{key} has rank {len(down)}, this run has {layer.rank}", where=where, hint="set the same rank")
    elif down.shape != layer.lora_down.shape or up.shape != layer.lora_up.shape:
        found, own = (tuple(down.shape), tuple(up.shape)), (tuple(layer.lora_down.shape), tuple(layer.lora_up.shape))
        problems.add(f"{key} has shapes {found}, the model has {own}", where=where, hint="is it of another family?")
    elif not math.isclose(alpha, layer.alpha, rel_tol=ALPHA_TOLERANCE):
        problems.add(f"{key} has alpha {alpha:g}, this run has {layer.alpha:g}", where=where, hint="set the same alpha")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
