"""Cutting a DyLoRA file to a lower rank."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import torch

from sdtune.api import ConfigError, ModelError, write_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_DOWN, _UP, _ALPHA = ".lora_down.weight", ".lora_up.weight", ".alpha"


def cut_file(path: Path, rank: int, output: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the LoRA of the first ranks of a DyLoRA file.

    Args:
        path: A .safetensors file of the method `dylora`.
        rank: Ranks that stay, a multiple of the unit it was trained with.
        output: The new file, or a folder for it; None: NAME-0008.safetensors beside `path`, for 8 ranks.
        overwrite: Replace a file of that name.

    Returns:
        The new file.

    Raises:
        ConfigError: There is no such file, the rank does not suit it, or the new file is there.
        ModelError: It is no DyLoRA.
    """
    tensors, metadata = _read(path)
    full, unit = _rank_and_unit(tensors, metadata, path)
    if not (0 < rank <= full and rank % unit == 0):
        choices = ", ".join(str(count) for count in range(unit, full + 1, unit))
        raise ConfigError(f"{path.name} cannot be cut to rank {rank}", hint=f"ranks: {choices}")
    usual = f"{path.stem}-{rank:04d}.safetensors"
    target = path.with_name(usual) if output is None else output / usual if output.is_dir() else output
    cut = cut_tensors(tensors, rank)
    alpha = next(float(tensor) for name, tensor in cut.items() if name.endswith(_ALPHA))
    changed = {"ss_network_dim": str(rank), "ss_network_alpha": str(alpha), "ss_output_name": target.stem}
    write_tensors(target, cut, metadata | changed, overwrite=overwrite)
    return target


def cut_tensors(tensors: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Keep the first ranks of a LoRA; alpha' = alpha * sqrt(rank / R), so that it acts as it did while training."""
    cut: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(_DOWN):
            cut[name] = tensor[:rank].contiguous()
        elif name.endswith(_UP):
            cut[name] = tensor[:, :rank].contiguous()
        elif name.endswith(_ALPHA):
            full = len(tensors[name.removesuffix(_ALPHA) + _DOWN])
            cut[name] = torch.tensor(float(tensor) * math.sqrt(rank / full))
    return cut


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no iterator
    except SafetensorError as error:
        raise ModelError(f"not a readable .safetensors file: {error}", where=str(path)) from error


def _rank_and_unit(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> tuple[int, int]:
    args = json.loads(metadata.get("ss_network_args", "{}"))
    if not isinstance(args, dict) or args.get("algo") != "dylora":
        raise ModelError(f"{path.name} was not trained by dylora: its first ranks alone mean nothing")
    return next(len(tensor) for name, tensor in tensors.items() if name.endswith(_DOWN)), int(args["unit"])
