"""LoRA as kohya's scripts write it and webuis read it: `lora_unet_….lora_down.weight`, `.lora_up.weight`, `.alpha`.

Readers: kohya-ss/sd-scripts `networks/lora.py`, A1111's Lora extension, Forge, ComfyUI, diffusers. A layer's effect is
alpha / rank times up @ down; without alpha the factor is 1.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from sdtune.formats.layer_names import kohya_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from sdtune.formats.facts import Family
    from sdtune.formats.low_rank import LowRank

_VERSIONS: Mapping[Family, tuple[str, str]] = {
    "sd1": ("sd_v1", "False"),
    "sd2": ("sd_v2", "True"),
    "sdxl": ("sdxl_base_v1-0", "False"),
}


def write(layers: Iterable[LowRank], family: Family) -> dict[str, Tensor]:
    """Name the tensors of layers; alpha is float32, which every reader takes.

    Raises:
        KeyError: The family has no such layer.
    """
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        key = kohya_key(layer.path, family)
        tensors[f"{key}.lora_down.weight"] = layer.down
        tensors[f"{key}.lora_up.weight"] = layer.up
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
    return tensors


def describe(layers: Sequence[LowRank], family: Family, name: str) -> dict[str, str]:
    """Give the entries by which webuis tell a file's family and show it, for files whose source has none."""
    version, is_v2 = _VERSIONS[family]
    rank, alpha = Counter((layer.rank, layer.alpha) for layer in layers).most_common(1)[0][0]
    return {
        "ss_base_model_version": version,
        "ss_v2": is_v2,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_output_name": name,
    }
