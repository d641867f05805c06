"""What a tensor file is, told by names and shapes alone: widths are never looked at, so small models count too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdtune.models.naming import WEBUI_PREFIX, UNetLayout, ldm_unet_layout, unet_layout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Shapes = Mapping[str, tuple[int, ...]]

FAMILY_TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
EMA_PREFIX = "model_ema."  # averaged weights; ldm writes their names without dots, `model_ema.diffusion_modelout0bias`
_LATENT_CHANNELS = 4
_INPUT_FIRST, _INPUT_BARE = "model.diffusion_model.input_blocks.0.0.weight", "input_blocks.0.0.weight"
_EXTRA_INPUTS = {9: "for inpainting", 8: "for editing (instruct-pix2pix)", 7: "for upscaling", 5: "for depth maps"}
_ADAPTERS = (".lora_", "_lora.", ".hada_", ".lokr_", ".oft_", ".boft_", ".dora_scale", "lora_A.", "lora_B.")
# The first that fits any name wins, so what is told by a rare name stands before what is told by a common one.
_OTHERS = tuple(
    (re.compile(pattern), title)
    for pattern, title in (
        (r"lora_(unet|te\d?|vae)_", "a LoRA or LyCORIS, not a base model"),
        (
            r"emb_params$|clip_[lg]$|string_to_param|string_to_token|<[^.]+>$",
            "a textual inversion embedding, not a base model",
        ),
        (r"\d+\.[01]\.linear\.|\d+\.[01]$", "a hypernetwork, not a base model"),
        (r"(ip_adapter|image_proj)\.", "an IP-Adapter, not a base model"),
        (r"control_model\.|controlnet_|input_hint_block\.|zero_convs\.|lora_controlnet$", "a ControlNet"),
        (r"(adapter\.)?body\.\d+\.(block|resnets|in_conv)", "a T2I-Adapter, not a base model"),
        (r"(.*\.)?(double_blocks|single_transformer_blocks)\.", "a Flux model"),
        (r"(.*\.)?joint_blocks\.|transformer_blocks\.\d+\.norm1_context\.", "a Stable Diffusion 3 model"),
        (r"(.*\.)?adaln_single\.", "a PixArt model"),
        (r"(.*\.)?(noise_refiner|cap_embedder)\.", "a Lumina model"),
        (r"(.*\.)?(clip_txt_mapper|clip_txt_pooled_mapper)\.", "a Stable Cascade model"),
        (rf"{re.escape(EMA_PREFIX)}", "only the averaged weights (EMA) of a model, without the model itself"),
        (
            r"(first_stage_model\.|vae\.)?(encoder|decoder)\.conv_in\.",
            "a VAE without a UNet; it can be given as model.vae",
        ),
        (r"(.*\.)?encoder\.block\.\d+\.layer\.|shared\.weight$", "a T5 text encoder"),
        (
            r"(.*\.)?text_model\.|cond_stage_model\.|conditioner\.|(.*\.)?transformer\.resblocks\.|"
            r"(embeddings|encoder\.layers)\.",
            "a text encoder without a UNet",
        ),
    )
)


def detect_family(shapes: Shapes, path: Path) -> str | None:
    """Name the family of a single file (ldm names) or of a folder's UNet (diffusers names): sd1, sd2, sdxl or None.

    SD1's attention has 1x1 convolutions (4-D) at its ends where later families have linear layers (2-D); SDXL embeds
    sizes and the pooled text on top. Models of these families that need more input than noise are none of them.
    """
    unet = _unet_shapes(shapes)
    if unet is None or _peculiarity(unet, shapes) or (_is_diffusers(unet) and path.is_file()):
        return None
    return _family(unet)


def describe(shapes: Shapes, *, is_folder: bool = False) -> str:
    """Say in a few words what a file holds, or a folder by its UNet: `Stable Diffusion XL (sdxl)`, `a ControlNet`.

    Args:
        shapes: Names and shapes of all tensors of a file, or of a folder's UNet.
        is_folder: They are a folder's.
    """
    unet = _unet_shapes(shapes)
    if unet is None:
        return _describe_other(shapes)
    family = _family(unet)
    title = f"{FAMILY_TITLES[family]} ({family})" if family else "a UNet of an unknown family"
    if peculiarity := _peculiarity(unet, shapes):
        return peculiarity if peculiarity.startswith("a") else f"{title} {peculiarity}"
    if (_is_diffusers(unet) or _INPUT_BARE in shapes) and not is_folder:
        return f"the UNet of {title} alone, without its VAE and text encoder"
    return title


def has_averaged_weights(shapes: Shapes) -> bool:
    """Tell whether a file also holds averaged weights (EMA)."""
    return any(name.startswith(EMA_PREFIX) for name in shapes)


def _describe_other(shapes: Shapes) -> str:
    if any(mark in name for name in shapes for mark in _ADAPTERS):
        return "a LoRA or LyCORIS, not a base model"
    for pattern, title in _OTHERS:
        if any(pattern.match(name) for name in shapes):
            return title
    return f"{len(shapes)} tensors of no known model, e.g. {min(shapes)!r}" if shapes else "no tensors"


def _family(unet: Shapes) -> str | None:
    if _embeds_vectors(unet):
        return "sdxl"
    ends = {len(shape) for name, shape in unet.items() if name.endswith(".proj_in.weight")}
    return {4: "sd1", 2: "sd2"}.get(ends.pop()) if len(ends) == 1 else None


def _peculiarity(unet: Shapes, shapes: Shapes) -> str:
    """Say what sets a model apart from those that are trained; empty for those."""
    channels = _input_channels(unet)
    if any(".time_stack." in name or ".motion_modules." in name for name in unet):
        return "a model of videos"
    if channels != _LATENT_CHANNELS:
        purpose = _EXTRA_INPUTS.get(channels, "of an unknown kind")
        return f"{purpose}, whose UNet takes {channels} channels instead of {_LATENT_CHANNELS}"
    if any(name.startswith("cond_stage_model.roberta.") for name in shapes):
        return "an AltDiffusion model, whose text encoder is no CLIP"
    if _embeds_vectors(unet) and (layout := _layout(unet)).attention:
        if layout.attention[0]:
            return "a Stable unCLIP model, which needs a picture as input"
        if len(layout.attention) > 3:
            return "a refiner of Stable Diffusion XL, not the base model"
    return ""


def _embeds_vectors(unet: Shapes) -> bool:
    return any(name.startswith(("label_emb.", "add_embedding.", "class_embedding.")) for name in unet)


def _layout(unet: Shapes) -> UNetLayout:
    return unet_layout(unet) if _is_diffusers(unet) else ldm_unet_layout(unet)


def _is_diffusers(unet: Shapes) -> bool:
    return "conv_in.weight" in unet


def _unet_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]] | None:
    prefix = WEBUI_PREFIX["unet"]
    if _INPUT_FIRST in shapes:
        return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    if _INPUT_BARE in shapes and "time_embed.0.weight" in shapes and not _controls(shapes):
        return dict(shapes)
    is_diffusers = "conv_in.weight" in shapes and any(name.startswith("down_blocks.0.") for name in shapes)
    is_whole = "time_embedding.linear_1.weight" in shapes and not _controls(shapes)
    return dict(shapes) if is_diffusers and is_whole else None


def _controls(shapes: Shapes) -> bool:
    """Tell a ControlNet, the first half of a UNet, from a UNet."""
    return not any(name.startswith(("output_blocks.", "up_blocks.")) for name in shapes)


def _input_channels(unet: Shapes) -> int:
    shape = unet.get(_INPUT_BARE) or unet["conv_in.weight"]
    return shape[1] if len(shape) == 4 else 0
