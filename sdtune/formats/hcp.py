"""LoRA as HCP-Diffusion writes it: one file for the UNet, one for the text encoders, `lora:MODULE.___.layer.W_down`.

The form of its version 0.9: 7eu7d7/HCP-Diffusion `hcpdiff/models/lora_base_patch.py`, `lora_layers_patch.py` and
`ckpt_manager`; names of SDXL's text encoders as in `models/compose/sdxl_composer.py`.

HCP stores what multiplies up @ down, alpha / rank, under the name alpha; webuis divide what they find by the rank. So a
file that is merely renamed is rank times too weak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from sdtune.formats.low_rank import LowRank

_ENCODERS: Mapping[str, str] = {"text_encoder": "clip_L.", "text_encoder_2": "clip_bigG."}


def whole_alpha(stored: float, rank: int) -> float:
    """Give the alpha that HCP divided by the rank: the roundest number whose quotient is what it stored, in float32."""
    exact = stored * rank
    rounded = float(f"{exact:.6g}")
    return rounded if _float32(rounded / rank) == _float32(stored) else exact


def _float32(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float32))


def write(layers: Sequence[LowRank]) -> dict[str, dict[str, Tensor]]:
    """Name the tensors of layers: `unet` and `text_encoder`, as HCP calls the files, to tensors."""
    has_two_encoders = any(layer.component == "text_encoder_2" for layer in layers)
    files: dict[str, dict[str, Tensor]] = {}
    for layer in layers:
        is_unet = layer.component == "unet"
        tensors = files.setdefault("unet" if is_unet else "text_encoder", {})
        encoder = _ENCODERS[layer.component] if has_two_encoders and not is_unet else ""
        name = f"lora:{encoder}{layer.module}.___"
        tensors[f"{name}.layer.W_down"] = layer.down
        tensors[f"{name}.layer.W_up"] = layer.up
        tensors[f"{name}.alpha"] = torch.tensor(layer.scale, dtype=torch.float32)
    return files
