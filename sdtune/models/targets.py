"""Adapter sites of Stable Diffusion's parts, chosen by canonical name: a replaced layer stays a site."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdtune.models.base import Component, Part, Target, TargetKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import nn

_BLOCK = r"(?:(?P<side>down|up)_blocks\.(?P<number>\d+)|(?P<mid>mid)_block)"
_TRANSFORMER = r"transformer_blocks\.\d+\.(?:attn[12]\.to_(?:q|k|v|out\.0)|ff\.net\.(?:0\.proj|2))"
_SITES: Mapping[Part, tuple[tuple[TargetKind, re.Pattern[str]], ...]] = {
    "unet": (
        ("attention", re.compile(rf"{_BLOCK}\.attentions\.\d+\.(?:proj_in|proj_out|{_TRANSFORMER})")),
        ("resnet", re.compile(rf"{_BLOCK}\.resnets\.\d+\.(?:conv1|conv2|conv_shortcut|time_emb_proj)")),
        ("sampler", re.compile(rf"{_BLOCK}\.(?:down|up)samplers\.0\.conv")),
    ),
    "text_encoder": (
        (
            "text",
            re.compile(r"text_model\.encoder\.layers\.(?P<layer>\d+)\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])"),
        ),
    ),
    "vae": (),
}


def list_targets(part: Part, component: Component, modules: Iterable[tuple[str, nn.Module]]) -> Iterator[Target]:
    """Pick the sites among a component's (canonical name, module), in the order given."""
    for name, module in modules:
        for kind, pattern in _SITES[part]:
            if match := pattern.fullmatch(name):
                yield Target(path=f"{component}.{name}", module=module, part=part, kind=kind, block=_block(match))


def _block(match: re.Match[str]) -> str:
    groups = match.groupdict()
    if groups.get("layer") is not None:
        return f"layer_{groups['layer']}"
    return "mid" if groups["mid"] else f"{groups['side']}_{groups['number']}"
