"""The tensors a model must have, from its own layout: so that what is missing or belongs to nothing has a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.models import naming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sdtune.formats.contents import Contents

# Where the parts lie in a single file; the first prefix that fits is it.
PREFIXES = (
    ("unet", "model.diffusion_model."),
    ("vae", "first_stage_model."),
    ("text_encoder", "cond_stage_model.transformer."),
    ("text_encoder", "cond_stage_model.model."),
    ("text_encoder", "conditioner.embedders.0.transformer."),
    ("text_encoder_2", "conditioner.embedders.1.model."),
    ("text_encoder_2", "conditioner.embedders.0.model."),  # the refiner has this one alone
)
EMA_PREFIX = "model_ema."
MARKS = {"v_pred", "ztsnr"}
_BUFFERS = re.compile(
    r"betas|alphas_cumprod(?:_prev)?|(?:sqrt|log|posterior)_\w+|logvar|scale_factor|denoiser\.sigmas"
    r"|cond_stage_model\.logit_scale|global_step|model_ema\.(?:decay|num_updates)"
)
_BOTH = ("weight", "bias")
_OPTIONAL_TEXT = re.compile(
    r"(?:text_model\.)?embeddings\.position_ids|text_projection(?:\.weight)?|logit_scale|attn_mask"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """A part's tensors, sorted.

    Attributes:
        names: Name in the part to the name in the file.
        missing: Names in the part (diffusers' or the text encoder's own) that should be there.
        strays: Names in the file that belong to no layer.
    """

    names: Mapping[str, str]
    missing: tuple[str, ...]
    strays: tuple[str, ...]


def split_parts(contents: Contents) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Sort a model's tensors by part.

    Returns:
        Part to {name in the part: name in the file}, with `ema`, `buffers` and `marks` besides, and what is left.
    """
    parts: dict[str, dict[str, str]] = {}
    left = []
    for name in contents.tensors:
        part, inner = _split_folder_name(name) if contents.form == "folder" else _split_file_name(name)
        if part:
            parts.setdefault(part, {})[inner] = name
        else:
            left.append(name)
    return parts, left


def take_inventory(part: str, names: Mapping[str, str]) -> Inventory:
    """Compare a part's names with those its layout asks for."""
    if part == "unet":
        return _compare(names, _canonical_unet(names), expect_unet)
    if part == "vae":
        return _compare(names, _canonical_vae(names), expect_vae)
    expect = expect_open_clip if is_open_clip(names) else expect_text
    return _compare(names, {name: _text_name(name) for name in names}, expect)


def is_open_clip(names: Iterable[str]) -> bool:
    """Tell whether a text encoder has OpenCLIP's own names."""
    return any(name.startswith("transformer.resblocks.") for name in names)


def _compare(
    names: Mapping[str, str], canonical: Mapping[str, str], expect: Callable[[set[str]], Iterator[str]]
) -> Inventory:
    found = {new for new in canonical.values() if new}
    required = set(expect(found))
    strays = [names[old] for old, new in canonical.items() if not new or not (new in required or _is_optional(new))]
    return Inventory(names=names, missing=tuple(sorted(required - found)), strays=tuple(strays))


def _is_optional(name: str) -> bool:
    return ".conv_shortcut." in name or bool(_OPTIONAL_TEXT.fullmatch(name))


def expect_unet(found: set[str]) -> Iterator[str]:
    """List the tensors of a UNet of this layout, under diffusers' names."""
    layout = naming.unet_layout(found)
    levels = len(layout.attention)
    yield from _leaves(("conv_in", "conv_norm_out", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"))
    if any(name.startswith("add_embedding.") for name in found):
        yield from _leaves(("add_embedding.linear_1", "add_embedding.linear_2"))
    for i, attends in enumerate(layout.attention):
        yield from _unet_block(found, f"down_blocks.{i}", layout.layers, attends=attends)
        yield from _unet_block(found, f"up_blocks.{levels - 1 - i}", layout.layers + 1, attends=attends)
        if i < levels - 1:
            yield from _leaves((f"down_blocks.{i}.downsamplers.0.conv", f"up_blocks.{i}.upsamplers.0.conv"))
    yield from _unet_block(found, "mid_block", 2, attends=False)
    yield from _attention(found, "mid_block.attentions.0")


def _unet_block(found: set[str], block: str, layers: int, *, attends: bool) -> Iterator[str]:
    for j in range(layers):
        inner = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2")
        yield from _leaves(f"{block}.resnets.{j}.{layer}" for layer in inner)
        if attends:
            yield from _attention(found, f"{block}.attentions.{j}")


def _attention(found: set[str], place: str) -> Iterator[str]:
    yield from _leaves(f"{place}.{layer}" for layer in ("norm", "proj_in", "proj_out"))
    numbers = {int(m[1]) for n in found if (m := re.match(rf"{re.escape(place)}\.transformer_blocks\.(\d+)\.", n))}
    for n in range(max(numbers, default=0) + 1):
        block = f"{place}.transformer_blocks.{n}"
        both = ("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
        yield from _leaves(f"{block}.{layer}" for layer in both)
        yield from (f"{block}.{attn}.to_{letter}.weight" for attn in ("attn1", "attn2") for letter in "qkv")


def expect_vae(found: set[str]) -> Iterator[str]:
    """List the tensors of a VAE of this layout, under diffusers' names."""
    levels = naming.vae_levels(found)
    layers = sum(f"encoder.down_blocks.0.resnets.{j}.conv1.weight" in found for j in range(8))
    yield from _leaves(("quant_conv", "post_quant_conv"))
    for side, block, count in (("encoder", "down_blocks", layers), ("decoder", "up_blocks", layers + 1)):
        yield from _leaves(f"{side}.{layer}" for layer in ("conv_in", "conv_norm_out", "conv_out"))
        places = [f"{side}.{block}.{i}.resnets.{j}" for i in range(levels) for j in range(count)]
        places += [f"{side}.mid_block.resnets.{j}" for j in range(2)]
        yield from _leaves(f"{place}.{layer}" for place in places for layer in ("norm1", "conv1", "norm2", "conv2"))
        inner = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
        yield from _leaves(f"{side}.mid_block.attentions.0.{layer}" for layer in inner)
        sampler = "downsamplers" if side == "encoder" else "upsamplers"
        yield from _leaves(f"{side}.{block}.{i}.{sampler}.0.conv" for i in range(levels - 1))


def expect_text(found: set[str]) -> Iterator[str]:
    """List the tensors of a CLIP text encoder of so many layers, under transformers' names."""
    layers = count_layers(found, r"text_model\.encoder\.layers\.(\d+)\.")
    yield "text_model.embeddings.token_embedding.weight"
    yield "text_model.embeddings.position_embedding.weight"
    yield from _leaves(("text_model.final_layer_norm",))
    inner = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    inner += [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    yield from _leaves(f"text_model.encoder.layers.{i}.{layer}" for i in range(layers) for layer in inner)


def expect_open_clip(found: set[str]) -> Iterator[str]:
    """List the tensors of an OpenCLIP text encoder of so many layers, under its own names."""
    yield from ("token_embedding.weight", "positional_embedding", "ln_final.weight", "ln_final.bias")
    for i in range(count_layers(found, r"transformer\.resblocks\.(\d+)\.")):
        block = f"transformer.resblocks.{i}"
        yield from _leaves(f"{block}.{layer}" for layer in ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj"))
        yield from (f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias")


def count_layers(names: Iterable[str], pattern: str) -> int:
    """Count layers by the largest number."""
    return max((int(match[1]) + 1 for name in names if (match := re.match(pattern, name))), default=0)


def _leaves(layers: Iterable[str]) -> Iterator[str]:
    return (f"{layer}.{leaf}" for layer in layers for leaf in _BOTH)


def _canonical_unet(names: Iterable[str]) -> dict[str, str]:
    found = list(names)
    if any(name.startswith("down_blocks.") for name in found):
        return {name: name for name in found}
    rename = naming.unet_renaming(naming.ldm_unet_layout(found)).inverse
    return {name: _renamed(rename, name) for name in found}


def _canonical_vae(names: Iterable[str]) -> dict[str, str]:
    found = list(names)
    if any(name.startswith("encoder.down_blocks.") for name in found):
        return {name: naming.modern_vae_name(name) for name in found}
    rename = naming.vae_renaming(naming.vae_levels(found)).inverse
    return {name: _renamed(rename, name) for name in found}


def _renamed(rename: naming.Renaming, name: str) -> str:
    try:
        return rename(name)
    except KeyError:
        return ""


def _text_name(name: str) -> str:
    if _OPTIONAL_TEXT.fullmatch(name) or name.startswith(("transformer.", "token_", "positional_", "ln_final.")):
        return name
    return naming.text_name(name)


def _split_folder_name(name: str) -> tuple[str, str]:
    part, slash, inner = name.partition("/")
    return (part, inner) if slash else ("", name)


def _split_file_name(name: str) -> tuple[str, str]:
    if name in MARKS:
        return "marks", name
    if _BUFFERS.fullmatch(name):
        return "buffers", name
    if name.startswith(EMA_PREFIX):
        return "ema", name
    for part, prefix in PREFIXES:
        if name.startswith(prefix):
            return part, name.removeprefix(prefix)
    return "", name
