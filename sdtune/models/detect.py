"""What a tensor file is, told by names and shapes alone: widths are never looked at, so small models count too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.models.naming import WEBUI_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Shapes = Mapping[str, tuple[int, ...]]

FAMILY_TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
_LATENT_CHANNELS = 4
_OTHERS = (
    (("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"), "a LoRA or LyCORIS, not a base model"),
    (("emb_params", "clip_l", "clip_g", "string_to_param"), "a textual inversion embedding, not a base model"),
    (("control_model.", "controlnet_cond_embedding."), "a ControlNet"),
    (("model.diffusion_model.double_blocks.", "double_blocks.", "single_transformer_blocks."), "a Flux model"),
    (("model.diffusion_model.joint_blocks.", "joint_blocks."), "a Stable Diffusion 3 model"),
    (("first_stage_model.", "encoder.conv_in.", "decoder.conv_in."), "a VAE without a UNet"),
    (("text_model.", "cond_stage_model.", "transformer.text_model."), "a text encoder without a UNet"),
)


def detect_family(shapes: Shapes, path: Path) -> str | None:
    """Name the family of a single file (ldm names) or of a folder's UNet (diffusers names): sd1, sd2, sdxl or None.

    SD1's attention has 1x1 convolutions (4-D) at its ends where later families have linear layers (2-D); SDXL embeds
    sizes and the pooled text on top.
    """
    unet = _unet_shapes(shapes)
    if unet is None or _input_channels(unet) != _LATENT_CHANNELS:
        return None
    if any(name.startswith(("label_emb.", "add_embedding.")) for name in unet):
        return "sdxl"
    ends = {len(shape) for name, shape in unet.items() if name.endswith(".proj_in.weight")}
    return {4: "sd1", 2: "sd2"}.get(ends.pop()) if len(ends) == 1 else None


def describe(shapes: Shapes) -> str:
    """Say in a few words what a file without a known family holds."""
    unet = _unet_shapes(shapes)
    if unet is not None:
        channels = _input_channels(unet)
        if channels == _LATENT_CHANNELS:
            return "a UNet of an unknown family"
        kind = {9: "inpainting ", 8: "instruct-pix2pix "}.get(channels, "")
        return f"a {kind}model whose UNet takes {channels} channels instead of {_LATENT_CHANNELS}"
    if any(".lora_" in name or ".hada_" in name or ".lokr_" in name for name in shapes):
        return "a LoRA or LyCORIS, not a base model"
    for prefixes, title in _OTHERS:
        if any(name.startswith(prefixes) for name in shapes):
            return title
    return f"{len(shapes)} tensors of no known model, e.g. {min(shapes)!r}" if shapes else "no tensors"


def _unet_shapes(shapes: Shapes) -> dict[str, tuple[int, ...]] | None:
    prefix = WEBUI_PREFIX["unet"]
    if f"{prefix}input_blocks.0.0.weight" in shapes:
        return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    is_diffusers = "conv_in.weight" in shapes and any(name.startswith("down_blocks.0.") for name in shapes)
    return dict(shapes) if is_diffusers and "time_embedding.linear_1.weight" in shapes else None


def _input_channels(unet: Shapes) -> int:
    shape = unet.get("input_blocks.0.0.weight") or unet["conv_in.weight"]
    return shape[1] if len(shape) == 4 else 0
