from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdtune.models import libraries, naming
from sdtune.models.detect import FAMILY_TITLES, describe, detect_family, has_averaged_weights
from sdtune.models.tensors import read_header

HERE, FILE = Path(), Path("model.safetensors")


XL_BLOCKS = ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D")
REFINER_BLOCKS = (*XL_BLOCKS, "DownBlock2D")
LINEAR = {"use_linear_projection": True}
SIZES = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}


def unet_shapes(down=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), **options):
    """Shapes of a narrow UNet of diffusers."""
    up = tuple(kind.replace("Down", "Up") for kind in reversed(down))
    with torch.device("meta"):
        unet = libraries.unet_class()(
            down_block_types=down, up_block_types=up, block_out_channels=(32,) * len(down), norm_num_groups=8, **options
        )
    return {name: tuple(tensor.shape) for name, tensor in unet.state_dict().items()}


def in_a_file(shapes):
    """The same UNet under the names of a single file."""
    rename = naming.unet_renaming(naming.unet_layout(shapes))
    return {naming.WEBUI_PREFIX["unet"] + rename(name): shape for name, shape in shapes.items()}


FAMILIES = {"sd1": {}, "sd2": LINEAR, "sdxl": {"down": XL_BLOCKS, **LINEAR, **SIZES}}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_told_in_both_layouts(family):
    shapes = unet_shapes(**FAMILIES[family])
    assert detect_family(shapes, HERE) == detect_family(in_a_file(shapes), FILE) == family
    assert describe(shapes, is_folder=True) == describe(in_a_file(shapes)) == f"{FAMILY_TITLES[family]} ({family})"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("channels", "word"), [(9, "inpainting"), (8, "instruct-pix2pix"), (6, "takes 6 channels")])
def test_a_unet_with_more_input_is_no_family_and_says_why(family, channels, word):
    shapes = in_a_file(unet_shapes(**FAMILIES[family], in_channels=channels))
    assert detect_family(shapes, FILE) is None
    assert word in describe(shapes)
    assert FAMILY_TITLES[family] in describe(shapes)


@pytest.mark.parametrize(
    ("options", "title"),
    [
        ({"down": REFINER_BLOCKS, **LINEAR, **SIZES}, "a refiner of Stable Diffusion XL"),
        (
            {**LINEAR, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 64},
            "a Stable unCLIP model",
        ),
    ],
)
def test_relatives_that_are_not_trained_are_told_apart(options, title):
    shapes = unet_shapes(**options)
    assert detect_family(shapes, HERE) is None
    assert title in describe(shapes)


def test_a_unet_alone_is_called_so():
    shapes = unet_shapes()
    assert detect_family(shapes, Path(__file__)) is None
    assert describe(shapes) == "the UNet of Stable Diffusion 1 (sd1) alone, without its VAE and text encoder"


def test_averaged_weights_alone_are_no_model(tiny_file):
    shapes = read_header(tiny_file).shapes
    assert not has_averaged_weights(shapes)
    only = {f"model_ema.{name.replace('.', '')}": shape for name, shape in shapes.items()}
    assert detect_family(only, FILE) is None
    assert "only the averaged weights" in describe(only)
    assert has_averaged_weights({**shapes, **only})
    assert detect_family({**shapes, **only}, FILE) == "sd1"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "a LoRA"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a", "a LoRA"),
        ("unet.mid_block.attentions.0.to_q.lora_A.weight", "a LoRA"),
        ("emb_params", "textual inversion"),
        ("clip_g", "textual inversion"),
        ("768.0.linear.0.weight", "a hypernetwork"),
        ("first_stage_model.encoder.conv_in.weight", "a VAE"),
        ("decoder.conv_in.weight", "a VAE"),
        ("text_model.final_layer_norm.weight", "a text encoder"),
        ("clip_l.transformer.text_model.final_layer_norm.weight", "a text encoder"),
        ("cond_stage_model.model.transformer.resblocks.0.ln_1.weight", "a text encoder"),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", "a T5 text encoder"),
        ("control_model.time_embed.0.weight", "a ControlNet"),
        ("controlnet_cond_embedding.conv_in.weight", "a ControlNet"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("banana", "1 tensors of no known model"),
    ],
)
def test_other_files_are_called_what_they_are(name, title):
    assert detect_family({name: (1,)}, HERE) is None
    assert title in describe({name: (1,)})
