"""Names of layers in files of adapters, and the names that all dialects are brought to.

Pure functions on strings. Names in kohya's files have lost their dots: `down_blocks_0_attentions_0_proj_in`. They come
back by a list of the words that hold an underscore themselves, so no model is needed, whatever its widths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.models.naming import Renaming, UNetLayout, text_name, unet_renaming

if TYPE_CHECKING:
    from sdtune.formats.facts import Family

# Words of module names in diffusers, transformers and ldm that hold an underscore.
_WORDS = frozenset(
    """
    down_blocks up_blocks mid_block transformer_blocks to_q to_k to_v to_out proj_in proj_out conv_in conv_out
    conv_norm_out conv_shortcut time_emb_proj time_embedding add_embedding linear_1 linear_2
    input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection label_emb time_embed
    text_model self_attn q_proj k_proj v_proj out_proj text_projection token_embedding position_embedding
    final_layer_norm layer_norm1 layer_norm2
    """.split()
)
_LONGEST_WORD = 3
_LDM_ROOTS = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
_UNET_ROOTS = (
    "down_blocks.", "mid_block.", "up_blocks.", "conv_in", "conv_out", "conv_norm_out", "time_embedding.",
    "add_embedding.",
)  # fmt: skip
_TEXT_ROOTS = ("text_model.encoder.layers.", "text_model.embeddings.", "text_model.final_layer_norm", "text_projection")
_SD = UNetLayout(layers=2, attention=(True, True, True, False))
_SDXL = UNetLayout(layers=2, attention=(False, True, True))
# diffusers' names before 0.18 for a text encoder's attention
_OLD_TEXT = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj", "to_out.0": "out_proj"}


def layer_path(component: str, name: str, family: Family | None) -> str:
    """Give a layer's path by the name with underscores that files of adapters have.

    Args:
        component: `unet`, `text_encoder` or `text_encoder_2`.
        name: E.g. `mid_block_attentions_0_proj_in`; ldm's names become diffusers'.
        family: Decides what ldm's numbers mean; None: SDXL's, since no other family's files have them.

    Raises:
        KeyError: It is no layer of Stable Diffusion.
    """
    module = with_dots(name)
    if component == "unet" and module.startswith(_LDM_ROOTS):
        module = _ldm_names(_SD if family in ("sd1", "sd2") else _SDXL).inverse(module)
    elif component != "unet":
        stem, attention, layer = text_name(module).rpartition(".self_attn.")
        module = stem + attention + (_OLD_TEXT.get(layer, layer) if stem else layer)
    if not module.startswith(_UNET_ROOTS if component == "unet" else _TEXT_ROOTS):
        raise KeyError(module)
    return f"{component}.{module}"


def kohya_key(path: str, family: Family) -> str:
    """Name a layer as kohya's scripts do: diffusers' names for SD1 and SD2, ldm's for SDXL's UNet.

    Raises:
        KeyError: SDXL's UNet has no such layer.
    """
    component, _, module = path.partition(".")
    if component == "unet":
        name = _ldm_names(_SDXL)(module) if family == "sdxl" else module
        return f"lora_unet_{name.replace('.', '_')}"
    prefix = "lora_te" if family != "sdxl" else "lora_te1" if component == "text_encoder" else "lora_te2"
    return f"{prefix}_{module.replace('.', '_')}"


def with_dots(name: str) -> str:
    """Put the dots back into a name: `ff_net_0_proj` -> `ff.net.0.proj`, `attn1_to_out_0` -> `attn1.to_out.0`."""
    pieces, words = name.split("_"), []
    while pieces:
        lengths = range(min(_LONGEST_WORD, len(pieces)), 1, -1)
        length = next((n for n in lengths if "_".join(pieces[:n]) in _WORDS), 1)
        words.append("_".join(pieces[:length]))
        pieces = pieces[length:]
    return ".".join(words)


def _ldm_names(layout: UNetLayout) -> Renaming:
    return unet_renaming(layout)
