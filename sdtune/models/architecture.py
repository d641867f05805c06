"""Sizes of a Stable Diffusion model, read off the shapes of its weights (canonical names)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.models import naming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.models.base import Prediction

    Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SDFamily:
    """What SD1 and SD2 differ in and no shape tells.

    Attributes:
        name: Name of the family.
        unet_heads: Heads of every attention; None: one for each 64 channels.
        text_activation: Activation of the text encoder's MLP.
        prediction: What the UNet predicts, unless the model says otherwise.
        native_px: Side it was trained at.
    """

    name: str
    unet_heads: int | None
    text_activation: str
    prediction: Prediction
    native_px: int


SD1 = SDFamily(name="sd1", unet_heads=8, text_activation="quick_gelu", prediction="epsilon", native_px=512)
_HEAD_WIDTH = 64


def unet_config(shapes: Shapes, family: SDFamily) -> dict[str, Any]:
    """Give the arguments of `UNet2DConditionModel`.

    Raises:
        KeyError: A weight that every such UNet has is missing.
    """
    layout = naming.unet_layout(shapes)
    levels = len(layout.attention)
    widths = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels))
    first = layout.attention.index(True)
    block = f"down_blocks.{first}.attentions.0"
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layout.layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in layout.attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(layout.attention)),
        "cross_attention_dim": shapes[f"{block}.transformer_blocks.0.attn2.to_k.weight"][1],
        "use_linear_projection": len(shapes[f"{block}.proj_in.weight"]) == 2,
        # diffusers calls the number of heads attention_head_dim, and keeps that for old configurations
        "attention_head_dim": family.unet_heads or tuple(width // _HEAD_WIDTH for width in widths),
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Give the arguments of `AutoencoderKL`.

    Raises:
        KeyError: A weight that every such VAE has is missing.
    """
    levels = naming.vae_levels(shapes)
    layers = sum(f"encoder.down_blocks.0.resnets.{j}.conv1.weight" in shapes for j in range(8))
    return {
        "block_out_channels": tuple(
            shapes[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"][0] for i in range(levels)
        ),
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": layers,
        "latent_channels": shapes["decoder.conv_in.weight"][1],
    }


def count_text_layers(shapes: Shapes) -> int:
    """Count the layers of a text encoder."""
    return sum(name.startswith("text_model.encoder.layers.") and name.endswith(".mlp.fc1.weight") for name in shapes)


def text_config(shapes: Shapes, family: SDFamily) -> dict[str, Any]:
    """Give the arguments of `CLIPTextConfig`.

    Raises:
        KeyError: A weight that every CLIP text model has is missing.
    """
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_text_layers(shapes),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "hidden_act": family.text_activation,
        "projection_dim": width,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
