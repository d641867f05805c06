from __future__ import annotations

import pytest
import torch

from sdtune.models import naming
from sdtune.models.architecture import SD1
from sdtune.models.storage import to_webui

COUNTS = {"unet": 686, "vae": 248, "text_encoder": 196}


@pytest.fixture(scope="module")
def names(full_width):
    """Canonical names of SD1.5's weights, by part."""
    found = {part: list(module.state_dict()) for part, module in full_width.items()}
    return found | {"text_encoder": [naming.text_name(name) for name in found["text_encoder"]]}


@pytest.mark.parametrize(("part", "count"), COUNTS.items())
def test_every_weight_of_sd15_gets_a_name_of_its_own(names, part, count):
    assert len(names[part]) == count
    assert len(dict(to_webui(part, _numbered(names[part]), SD1))) == count


def test_unet_names_come_back(names):
    rename = naming.unet_renaming(naming.unet_layout(names["unet"]))
    ldm = [rename(name) for name in names["unet"]]
    back = naming.unet_renaming(naming.ldm_unet_layout(ldm)).inverse
    assert [back(name) for name in ldm] == names["unet"]


def test_vae_names_come_back(names):
    ldm = [naming.vae_renaming(4)(name) for name in names["vae"]]
    back = naming.vae_renaming(naming.vae_levels(ldm)).inverse
    assert [back(name) for name in ldm] == names["vae"]


@pytest.mark.parametrize(
    ("diffusers", "ldm"),
    [
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("time_embedding.linear_2.bias", "time_embed.2.bias"),
        ("down_blocks.0.resnets.0.norm1.weight", "input_blocks.1.0.in_layers.0.weight"),
        ("down_blocks.2.downsamplers.0.conv.bias", "input_blocks.9.0.op.bias"),
        (
            "down_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0.bias",
            "input_blocks.5.1.transformer_blocks.0.attn1.to_out.0.bias",
        ),
        ("mid_block.resnets.1.conv_shortcut.weight", "middle_block.2.skip_connection.weight"),
        ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("up_blocks.3.attentions.2.proj_out.weight", "output_blocks.11.1.proj_out.weight"),
        ("conv_norm_out.bias", "out.0.bias"),
    ],
)
def test_unet_names_are_those_of_the_format(names, diffusers, ldm):
    assert naming.unet_renaming(naming.unet_layout(names["unet"]))(diffusers) == ldm


def test_both_upsamplers_of_sdxl_stand_behind_attention():
    rename = naming.unet_renaming(naming.UNetLayout(layers=2, attention=(False, True, True)))
    assert rename("up_blocks.0.upsamplers.0.conv.weight") == "output_blocks.2.2.conv.weight"
    assert rename("up_blocks.1.upsamplers.0.conv.weight") == "output_blocks.5.2.conv.weight"


def _numbered(names):
    """A checkpoint in which each tensor holds its own number."""
    return {name: torch.full((1, 1, 1, 1), float(i)) for i, name in enumerate(names)}


def test_unet_names_agree_with_diffusers_own_converter(full_width, names):
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    renamed = dict(to_webui("unet", _numbered(names["unet"]), SD1))
    converted = convert_ldm_unet_checkpoint(renamed, full_width["unet"].config)
    assert {name: int(tensor) for name, tensor in converted.items()} == {n: i for i, n in enumerate(names["unet"])}


def test_vae_names_agree_with_diffusers_own_converter(full_width, names):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    renamed = dict(to_webui("vae", _numbered(names["vae"]), SD1))
    converted = convert_ldm_vae_checkpoint(renamed, full_width["vae"].config)
    assert {name: int(tensor) for name, tensor in converted.items()} == {n: i for i, n in enumerate(names["vae"])}


@pytest.mark.parametrize("name", ["encoder.layers.3.mlp.fc1.bias", "text_model.encoder.layers.3.mlp.fc1.bias"])
def test_text_names_have_one_form_whichever_transformers_wrote_them(name):
    assert naming.text_name(name) == "text_model.encoder.layers.3.mlp.fc1.bias"


def test_old_attention_names_of_vaes_become_new_ones():
    old = "encoder.mid_block.attentions.0.proj_attn.weight"
    assert naming.modern_vae_name(old) == "encoder.mid_block.attentions.0.to_out.0.weight"
    assert naming.modern_vae_name("quant_conv.weight") == "quant_conv.weight"


@pytest.mark.parametrize(
    ("prefix", "path", "key"),
    [
        (
            "lora_unet",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0",
        ),
        (
            "lora_te",
            "text_model.encoder.layers.0.self_attn.q_proj",
            "lora_te_text_model_encoder_layers_0_self_attn_q_proj",
        ),
    ],
)
def test_kohya_keys_are_those_of_the_format(prefix, path, key):
    assert naming.kohya_key(prefix, path) == key


def test_a_name_that_belongs_nowhere_is_an_error():
    with pytest.raises(KeyError):
        naming.Renaming({"conv_in": "x"})("conv_in_extra.weight")
