"""Names of one weight in diffusers' modules, in webui's single files, and in kohya-style adapter files.

Pure functions on strings. A renaming is a table of dotted prefixes; the longest that fits is replaced. Both directions
come from one table, so each is the other's inverse by construction.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

WEBUI_PREFIX: Mapping[str, str] = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}  # in every family
UNET_ADAPTER_PREFIX = "lora_unet"

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OLD_VAE_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Renaming:
    """A one-to-one table of dotted prefixes.

    Example:
        Renaming({"conv_in": "input_blocks.0.0"})("conv_in.weight") == "input_blocks.0.0.weight"
    """

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._pairs = dict(pairs)

    def __call__(self, name: str) -> str:
        """Rename, by the longest prefix in the table.

        Raises:
            KeyError: No prefix fits.
        """
        head = name
        while head not in self._pairs:
            head, dot, _ = head.rpartition(".")
            if not dot:
                raise KeyError(name)
        return self._pairs[head] + name[len(head) :]

    @cached_property
    def inverse(self) -> Renaming:
        """The way back."""
        return Renaming({new: old for old, new in self._pairs.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetLayout:
    """What the numbering of a UNet depends on.

    Attributes:
        layers: Resnets in a down block.
        attention: For each level, whether it has attention.
    """

    layers: int
    attention: tuple[bool, ...]


def unet_layout(names: Iterable[str]) -> UNetLayout:
    """Read the layout off names of diffusers' kind."""
    found = set(names)
    levels = count_numbers(found, r"down_blocks\.(\d+)\.")
    return UNetLayout(
        layers=count_numbers(found, r"down_blocks\.0\.resnets\.(\d+)\."),
        attention=tuple(any(n.startswith(f"down_blocks.{i}.attentions.") for n in found) for i in range(levels)),
    )


def ldm_unet_layout(names: Iterable[str]) -> UNetLayout:
    """Read the layout off names of a single file (without `model.diffusion_model.`)."""
    found = set(names)
    blocks = count_numbers(found, r"input_blocks\.(\d+)\.")
    downs = sorted({int(match[1]) for n in found if (match := re.match(r"input_blocks\.(\d+)\.0\.op\.", n))})
    stride = downs[0] if downs else blocks
    return UNetLayout(
        layers=stride - 1,
        attention=tuple(
            any(n.startswith(f"input_blocks.{stride * i + 1}.1.") for n in found) for i in range(len(downs) + 1)
        ),
    )


def unet_renaming(layout: UNetLayout) -> Renaming:
    """Build diffusers -> ldm for a UNet: SD1, SD2 and SDXL."""
    pairs = {
        "conv_in": "input_blocks.0.0",
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "mid_block.attentions.0": "middle_block.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    pairs.update(_resnet("mid_block.resnets.0", "middle_block.0"))
    pairs.update(_resnet("mid_block.resnets.1", "middle_block.2"))
    pairs.update(_down_blocks(layout))
    pairs.update(_up_blocks(layout))
    return Renaming(pairs)


def _down_blocks(layout: UNetLayout) -> Iterator[tuple[str, str]]:
    stride = layout.layers + 1
    for i in range(len(layout.attention)):
        for j in range(layout.layers):
            block = f"input_blocks.{stride * i + j + 1}"
            yield from _resnet(f"down_blocks.{i}.resnets.{j}", f"{block}.0")
            yield f"down_blocks.{i}.attentions.{j}", f"{block}.1"
        yield f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{stride * (i + 1)}.0.op"


def _up_blocks(layout: UNetLayout) -> Iterator[tuple[str, str]]:
    stride = layout.layers + 1
    for i, attention in enumerate(reversed(layout.attention)):
        for j in range(stride):
            block = f"output_blocks.{stride * i + j}"
            yield from _resnet(f"up_blocks.{i}.resnets.{j}", f"{block}.0")
            if attention:
                yield f"up_blocks.{i}.attentions.{j}", f"{block}.1"
        # the upsampler is the last entry of its block: behind the attention, if there is one
        yield f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{stride * i + layout.layers}.{1 + attention}.conv"


def _resnet(diffusers: str, ldm: str) -> Iterator[tuple[str, str]]:
    return ((f"{diffusers}.{old}", f"{ldm}.{new}") for old, new in _RESNET.items())


def vae_renaming(levels: int) -> Renaming:
    """Build diffusers -> ldm for a VAE of so many levels; SD1's has 4.

    The attention's weights are 1x1 convolutions (4-D) in ldm and linear (2-D) in diffusers: see `is_vae_attention`.
    """
    pairs = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side in ("encoder", "decoder"):
        mid = f"{side}.mid_block"
        pairs.update({f"{side}.{name}": f"{side}.{name}" for name in ("conv_in", "conv_out")})
        pairs[f"{side}.conv_norm_out"] = f"{side}.norm_out"
        pairs.update(_vae_resnet(f"{mid}.resnets.0", f"{side}.mid.block_1"))
        pairs.update(_vae_resnet(f"{mid}.resnets.1", f"{side}.mid.block_2"))
        pairs.update({f"{mid}.attentions.0.{old}": f"{side}.mid.attn_1.{new}" for old, new in _VAE_ATTENTION.items()})
    for i in range(levels):
        for j in range(8):  # more resnets in a block than any VAE has: a table may be too wide
            pairs.update(_vae_resnet(f"encoder.down_blocks.{i}.resnets.{j}", f"encoder.down.{i}.block.{j}"))
            pairs.update(_vae_resnet(f"decoder.up_blocks.{i}.resnets.{j}", f"decoder.up.{levels - 1 - i}.block.{j}"))
        pairs[f"encoder.down_blocks.{i}.downsamplers.0.conv"] = f"encoder.down.{i}.downsample.conv"
        pairs[f"decoder.up_blocks.{i}.upsamplers.0.conv"] = f"decoder.up.{levels - 1 - i}.upsample.conv"
    return Renaming(pairs)


def _vae_resnet(diffusers: str, ldm: str) -> dict[str, str]:
    return {diffusers: ldm, f"{diffusers}.conv_shortcut": f"{ldm}.nin_shortcut"}


def vae_levels(names: Iterable[str]) -> int:
    """Count the levels of a VAE by names of either kind."""
    return count_numbers(set(names), r"encoder\.down(?:_blocks)?\.(\d+)\.")


def is_vae_attention(name: str) -> bool:
    """Tell whether a diffusers name is a VAE weight that ldm holds as a 1x1 convolution."""
    return bool(re.fullmatch(r"(?:en|de)coder\.mid_block\.attentions\.0\.to_(?:q|k|v|out\.0)\.weight", name))


def modern_vae_name(name: str) -> str:
    """Rename the attention of VAEs saved by diffusers before 0.18 (`query` -> `to_q`, ...)."""
    head, dot, leaf = name.rpartition(".")
    stem, _, layer = head.rpartition(".")
    return f"{stem}.{_OLD_VAE_ATTENTION[layer]}{dot}{leaf}" if layer in _OLD_VAE_ATTENTION else name


def text_name(name: str) -> str:
    """Normalise a text encoder's name to the `text_model.` form that every file format has.

    transformers 5 dropped `text_model.` from `CLIPTextModel`; 4 has it.
    """
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def kohya_key(prefix: str, module: str) -> str:
    """Name a layer as kohya-style files do: (`lora_unet`, `a.b`) -> `lora_unet_a_b`."""
    return f"{prefix}_{module.replace('.', '_')}"


def count_numbers(names: Iterable[str], pattern: str) -> int:
    """Count consecutive numbers from 0, by the largest one found."""
    return max((int(match[1]) + 1 for name in names if (match := re.match(pattern, name))), default=0)
