"""The families of Stable Diffusion as data, and the sizes of a model, read off the shapes of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sdtune.models import naming, vocabulary
from sdtune.models.openclip import PROJECTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.models.base import Component, Part, Prediction

    Shapes = Mapping[str, tuple[int, ...]]

_TOKENS = "text_model.embeddings.token_embedding.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFamily:
    """What no shape tells about a text encoder.

    Attributes:
        component: Its name in a diffusers folder.
        layout: Its names and shapes in a single file: transformers' or OpenCLIP's.
        prefix: What its names begin with in a single file.
        adapter_prefix: What its layers' names begin with in kohya-style files.
        word_key: Its name in files of embeddings.
        activation: Of the MLPs.
        pads_with_end: The end mark also fills a caption up; else token 0 does.
        dropped_layers: Last layers that files hold and nobody computes.
        is_pooled: It has a projection, and gives the pooled text.
    """

    component: Component
    layout: Literal["transformers", "openclip"]
    prefix: str
    adapter_prefix: str
    word_key: str = "clip_l"
    activation: str = "quick_gelu"
    pads_with_end: bool = True
    dropped_layers: int = 0
    is_pooled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SDFamily:
    """What SD1, SD2 and SDXL differ in and no shape tells.

    Attributes:
        name: Name of the family.
        texts: Its text encoders; their hidden states are joined along the width.
        unet_heads: Heads of every attention; None: one for each 64 channels.
        has_ldm_adapters: Kohya-style files name layers of its UNet as single files do, not as diffusers does.
        normalizes_text: The hidden states pass the text encoder's final norm.
        clip_skip: Which hidden state it was trained with: 1 the last, 2 the one before.
        prediction: What the UNet predicts, unless the model says otherwise.
        native_px: Side it was trained at.
        v_px: Side its v models were trained at, which say of themselves neither in names nor shapes what they are;
            None: its makers gave no such models.
        scaling_factor: Of the latents, unless the model says otherwise.
        vae_overflows: Its VAE gives numbers too large for float16.
    """

    name: str
    texts: tuple[TextFamily, ...]
    unet_heads: int | None = None
    has_ldm_adapters: bool = False
    normalizes_text: bool = True
    clip_skip: int = 1
    prediction: Prediction = "epsilon"
    native_px: int = 512
    v_px: int | None = None
    scaling_factor: float = 0.18215
    vae_overflows: bool = False

    @property
    def components(self) -> tuple[Component, ...]:
        """All components, in the order of a file."""
        return ("unet", "vae", *(text.component for text in self.texts))

    def components_of(self, part: Part) -> tuple[Component, ...]:
        """List the components of a part."""
        return tuple(text.component for text in self.texts) if part == "text_encoder" else (part,)

    def text(self, component: str) -> TextFamily:
        """Find a text encoder.

        Raises:
            KeyError: The component is none.
        """
        for text in self.texts:
            if text.component == component:
                return text
        raise KeyError(component)

    def prefix(self, component: Component) -> str:
        """Tell what names of a component begin with in a single file."""
        return naming.WEBUI_PREFIX.get(component) or self.text(component).prefix


SD1 = SDFamily(
    name="sd1",
    texts=(
        TextFamily(
            component="text_encoder",
            layout="transformers",
            prefix="cond_stage_model.transformer.",
            adapter_prefix="lora_te",
        ),
    ),
    unet_heads=8,
)
SD2 = SDFamily(
    name="sd2",
    texts=(
        TextFamily(
            component="text_encoder",
            layout="openclip",
            prefix="cond_stage_model.model.",
            adapter_prefix="lora_te",
            activation="gelu",
            pads_with_end=False,
            dropped_layers=1,
        ),
    ),
    clip_skip=2,
    v_px=768,
)
SDXL = SDFamily(
    name="sdxl",
    texts=(
        TextFamily(
            component="text_encoder",
            layout="transformers",
            prefix="conditioner.embedders.0.transformer.",
            adapter_prefix="lora_te1",
        ),
        TextFamily(
            component="text_encoder_2",
            layout="openclip",
            prefix="conditioner.embedders.1.model.",
            adapter_prefix="lora_te2",
            word_key="clip_g",
            activation="gelu",
            pads_with_end=False,
            is_pooled=True,
        ),
    ),
    has_ldm_adapters=True,
    normalizes_text=False,
    clip_skip=2,
    native_px=1024,
    scaling_factor=0.13025,
    vae_overflows=True,
)
FAMILIES: Mapping[str, SDFamily] = {family.name: family for family in (SD1, SD2, SDXL)}
_HEAD_WIDTH = 64


def unet_config(shapes: Shapes, family: SDFamily) -> dict[str, Any]:
    """Give the arguments of `UNet2DConditionModel`.

    Raises:
        KeyError: A weight that every such UNet has is missing.
        ValueError: No level has attention.
    """
    layout = naming.unet_layout(shapes)
    levels = range(len(layout.attention))
    widths = tuple(shapes[f"down_blocks.{i}.resnets.0.conv1.weight"][0] for i in levels)
    block = f"down_blocks.{layout.attention.index(True)}.attentions.0"
    context = shapes[f"{block}.transformer_blocks.0.attn2.to_k.weight"][1]
    depths = tuple(max(1, _count_blocks(shapes, f"down_blocks.{i}.attentions.0")) for i in levels)
    return {
        "in_channels": shapes["conv_in.weight"][1],
        "out_channels": shapes["conv_out.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layout.layers,
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in layout.attention),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(layout.attention)),
        "transformer_layers_per_block": depths if max(depths) > 1 else 1,
        "cross_attention_dim": context,
        "use_linear_projection": len(shapes[f"{block}.proj_in.weight"]) == 2,
        # diffusers calls the number of heads attention_head_dim, and keeps that for old configurations
        "attention_head_dim": family.unet_heads or tuple(max(1, width // _HEAD_WIDTH) for width in widths),
        **_size_embedding(shapes),
    }


def _count_blocks(shapes: Shapes, attention: str) -> int:
    return sum(
        name.startswith(f"{attention}.transformer_blocks.") and name.endswith(".norm1.weight") for name in shapes
    )


def _size_embedding(shapes: Shapes) -> dict[str, Any]:
    """Give SDXL's embedding of six sizes and the pooled text."""
    if "add_embedding.linear_1.weight" not in shapes:
        return {}
    width = shapes["add_embedding.linear_1.weight"][1]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": width,
    }


def vae_config(shapes: Shapes, family: SDFamily) -> dict[str, Any]:
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
        "scaling_factor": family.scaling_factor,
    }


def count_text_layers(shapes: Shapes) -> int:
    """Count the layers of a text encoder."""
    return sum(name.startswith("text_model.encoder.layers.") and name.endswith(".mlp.fc1.weight") for name in shapes)


def count_rows(shapes: Shapes) -> int:
    """Count the tokens that a text encoder has vectors for."""
    return shapes[_TOKENS][0]


def text_config(shapes: Shapes, text: TextFamily) -> dict[str, Any]:
    """Give the arguments of `CLIPTextConfig`.

    Raises:
        KeyError: A weight that every CLIP text model has is missing.
    """
    rows, width = shapes[_TOKENS]
    end = min(rows, vocabulary.SIZE) - 1  # tokens that were added come behind the end mark
    return {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": shapes["text_model.encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": count_text_layers(shapes),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "hidden_act": text.activation,
        "projection_dim": shapes.get(PROJECTION, (width,))[0],
        "bos_token_id": end - 1,
        "eos_token_id": end,
    }
