"""Presets: sets of layers chosen by name, since the names of classes change from version to version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sdtune.api import Target
    from sdtune_lycoris.config import Preset

_ATTENTION = re.compile(r"\.(?:attn\d+|self_attn)\.")
_NORM = re.compile(r"(?:(?:down|up)_blocks\.\d+|mid_block)\..*\.norm\d?")
_PRESETS: Mapping[Preset, Callable[[Target], bool]] = {
    "full": lambda target: True,
    "full-lin": lambda target: isinstance(target.module, nn.Linear),
    "attn-mlp": lambda target: target.kind in {"attention", "text"},
    "attn-only": lambda target: _ATTENTION.search(target.path) is not None,
    "unet-only": lambda target: target.part == "unet",
    "transformer-only": lambda target: target.kind == "attention",
    "convblock-only": lambda target: target.kind in {"resnet", "sampler"},
}


def in_preset(preset: Preset, target: Target) -> bool:
    """Tell whether a preset holds a layer."""
    return _PRESETS[preset](target)


def unet_norms(modules: Iterable[tuple[str, nn.Module]]) -> dict[str, nn.LayerNorm | nn.GroupNorm]:
    """Pick the norms inside a UNet's blocks among (name, module): the ones that webuis have names for."""
    return {
        f"unet.{name}": module
        for name, module in modules
        if _NORM.fullmatch(name) and isinstance(module, nn.LayerNorm | nn.GroupNorm)
    }
