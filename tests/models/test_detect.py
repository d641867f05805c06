from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdtune.models.architecture import SDXL
from sdtune.models.detect import describe, detect_family
from sdtune.models.storage import read_shapes, to_webui

HERE = Path()


@pytest.mark.parametrize("layout", ["tiny_folder", "tiny_file"])
def test_a_small_sd1_is_recognised_in_both_layouts(request, layout):
    path = request.getfixturevalue(layout)
    assert detect_family(read_shapes(path), path) == "sd1"


@pytest.fixture(scope="module")
def unet_shapes(full_width):
    return {name: tuple(tensor.shape) for name, tensor in full_width["unet"].state_dict().items()}


def _with_linear_ends(shapes):
    return {name: shape[:2] if ".proj_in." in name or ".proj_out." in name else shape for name, shape in shapes.items()}


def test_linear_attention_ends_mean_sd2(unet_shapes):
    assert detect_family(_with_linear_ends(unet_shapes), HERE) == "sd2"


def test_size_embedding_means_sdxl(unet_shapes):
    shapes = _with_linear_ends(unet_shapes) | {"add_embedding.linear_1.weight": (1280, 2816)}
    assert detect_family(shapes, HERE) == "sdxl"
    renamed = dict(to_webui("unet", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, SDXL))
    assert detect_family({name: tuple(tensor.shape) for name, tensor in renamed.items()}, HERE) == "sdxl"


@pytest.mark.parametrize(("channels", "word"), [(9, "inpainting"), (8, "instruct-pix2pix"), (5, "takes 5 channels")])
def test_a_unet_with_more_input_is_no_family_and_says_why(unet_shapes, channels, word):
    shapes = unet_shapes | {"conv_in.weight": (320, channels, 3, 3)}
    assert detect_family(shapes, HERE) is None
    assert word in describe(shapes)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "a LoRA"),
        ("unet.mid_block.attentions.0.to_q.lora_A.weight", "a LoRA"),
        ("emb_params", "textual inversion"),
        ("first_stage_model.encoder.conv_in.weight", "a VAE"),
        ("text_model.final_layer_norm.weight", "a text encoder"),
        ("control_model.time_embed.0.weight", "a ControlNet"),
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x", "Stable Diffusion 3"),
        ("banana", "1 tensors of no known model"),
    ],
)
def test_other_files_are_called_what_they_are(name, title):
    assert detect_family({name: (1,)}, HERE) is None
    assert title in describe({name: (1,)})
