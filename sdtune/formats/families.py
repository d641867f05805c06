"""Which family a file belongs to, and from what that is told: widths first, then names, then what metadata says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune.formats.adapters import AdapterModule
    from sdtune.formats.facts import Family

    Shapes = Mapping[str, tuple[int, ...]]

CONTEXT_FAMILIES: Mapping[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
TITLES: Mapping[Family, str] = {
    "sd1": "Stable Diffusion 1",
    "sd2": "Stable Diffusion 2",
    "sdxl": "Stable Diffusion XL",
}
_CROSS = re.compile(r"attn2_to_[kv]$")
_LDM = re.compile(r"(?:input_blocks|output_blocks|middle_block)_")


def family_of_adapter(modules: Sequence[AdapterModule], metadata: Mapping[str, str]) -> tuple[Family | None, str]:
    """Tell the family of an adapter, and from what."""
    for told in (_by_context, _by_names, _by_text_width):
        if found := told(modules):
            return found
    if found := family_of_metadata(metadata):
        return found
    return _by_ends(modules) or (None, "neither widths, names nor metadata tell")


def family_of_metadata(metadata: Mapping[str, str]) -> tuple[Family, str] | None:
    """Tell the family a file's metadata names, by the keys that webuis read."""
    version = metadata.get("ss_base_model_version", "")
    for start, family in (("sdxl", "sdxl"), ("sd_v2", "sd2"), ("sd_v1", "sd1")):
        if version.startswith(start):
            return family, f"its metadata says {version}"  # type: ignore[return-value]
    architecture = metadata.get("modelspec.architecture", "")
    for start, family in (("xl-v1", "sdxl"), ("v2", "sd2"), ("v1", "sd1")):
        if architecture.startswith(f"stable-diffusion-{start}"):
            return family, f"its metadata says {architecture}"  # type: ignore[return-value]
    if "ss_v2" in metadata:
        return ("sd2" if metadata["ss_v2"] == "True" else "sd1"), f"its metadata says ss_v2 {metadata['ss_v2']}"
    return None


def family_of_unet(shapes: Shapes) -> tuple[Family | None, str]:
    """Tell the family of a UNet by shapes under ldm or diffusers names, without prefix."""
    if any(name.startswith(("label_emb.", "add_embedding.")) for name in shapes):
        return "sdxl", "its UNet embeds sizes and the pooled text"
    contexts = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2}
    width = contexts.pop() if len(contexts) == 1 else 0
    ends = {len(shape) for name, shape in shapes.items() if name.endswith(".proj_in.weight")}
    told = f", cross-attention is {width} wide" if width else ""
    if ends == {4}:
        return "sd1", f"attention begins with a 1x1 convolution{told}"
    if ends == {2}:
        return "sd2", f"attention begins with a linear layer{told}, and no sizes are embedded"
    return None, "its UNet is of no known form"


def family_of_vectors(widths: Sequence[int], metadata: Mapping[str, str]) -> tuple[Family | None, str]:
    """Tell the family of an embedding by the widths of its vectors, one for each text encoder."""
    told = " and ".join(str(width) for width in widths)
    if len(widths) == 2:
        return "sdxl", f"it has vectors for two text encoders, {told} wide"
    if family := CONTEXT_FAMILIES.get(widths[0]):
        return family, f"its vectors are {told} wide"
    return family_of_metadata(metadata) or (None, f"its vectors are {told} wide, as no family's")


def family_of_sizes(sizes: Iterable[int]) -> tuple[Family | None, str]:
    """Tell the family of a hypernetwork by the widths it acts on: one of them is that of cross-attention."""
    for size in sorted(set(sizes) & set(CONTEXT_FAMILIES), reverse=True):
        return CONTEXT_FAMILIES[size], f"it acts on a context {size} wide"
    return None, "it acts on no width that only one family has"


def _by_context(modules: Sequence[AdapterModule]) -> tuple[Family, str] | None:
    widths = {module.input_width for module in modules if _CROSS.search(module.name) and module.component == "unet"}
    if len(widths) != 1:
        return None
    width = widths.pop() or 0
    family = CONTEXT_FAMILIES.get(width)
    return (family, f"cross-attention is {width} wide") if family else None


def _by_names(modules: Sequence[AdapterModule]) -> tuple[Family, str] | None:
    if any(module.component == "text_encoder_2" for module in modules):
        return "sdxl", "it acts on a second text encoder"
    unet = [module.name for module in modules if module.component == "unet"]
    if any(re.search(r"transformer_blocks_[1-9]", name) for name in unet):
        return "sdxl", "it acts on several transformer blocks in a row"
    if any(_LDM.match(name) for name in unet):
        return "sdxl", "its names are those of the XL UNet of kohya's scripts"
    return None


def _by_text_width(modules: Sequence[AdapterModule]) -> tuple[Family, str] | None:
    text = [module for module in modules if module.component == "text_encoder"]
    widths = {module.input_width for module in text if module.name.endswith("_self_attn_q_proj")}
    if widths == {1024}:
        return "sd2", "the text encoder is 1024 wide"
    return None


def _by_ends(modules: Sequence[AdapterModule]) -> tuple[Family, str] | None:
    """Tell SD1 by the 1x1 convolutions at the ends of its attention, the rest by which blocks have attention."""
    ends = [module for module in modules if module.name.endswith("_proj_in") and module.component == "unet"]
    ranks = {len(shape.shape) for m in ends for leaf, shape in m.tensors.items() if leaf in _END_TENSORS}
    if ranks == {4}:
        return "sd1", "attention begins with a 1x1 convolution"
    if ranks == {2} and any(module.name.startswith("down_blocks_0_") for module in ends):
        return "sd2", "attention begins with a linear layer, in the first block too"
    widths = {m.input_width for m in modules if m.component == "text_encoder" and m.name.endswith("q_proj")}
    has_unet = any(module.component == "unet" for module in modules)
    if widths == {768} and not has_unet:
        return "sd1", "the text encoder is 768 wide, and there is no other"
    return None


_END_TENSORS = {"lora_down.weight", "diff"}
