from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from sdtune.errors import ModelError
from sdtune.models.sidecar import encode_sidecar, read_sidecar

if TYPE_CHECKING:
    from pathlib import Path

UNETS = {
    "sd1": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd2": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 10),
        "projection_class_embeddings_input_dim": 2816,
    },
}
VAE = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
# What A1111's own configurations say of the UNet: configs/v1-inference.yaml, v2-inference-v.yaml and sd_xl_v.yaml.
SIZES = {
    "sd1": {"attention_resolutions": [4, 2, 1], "channel_mult": [1, 2, 4, 4], "num_heads": 8, "context_dim": 768},
    "sd2": {"attention_resolutions": [4, 2, 1], "num_head_channels": 64, "context_dim": 1024, "transformer_depth": 1},
    "sdxl": {
        "attention_resolutions": [4, 2],
        "channel_mult": [1, 2, 4],
        "num_head_channels": 64,
        "context_dim": 2048,
        "transformer_depth": [1, 2, 10],
        "adm_in_channels": 2816,
        "num_classes": "sequential",
    },
}


def encode(family, prediction="v_prediction"):
    unet = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, **UNETS[family]}
    return encode_sidecar(family, unet=unet, vae=VAE, scaling_factor=0.5, prediction=prediction)


@pytest.fixture
def beside(tmp_path):
    """Write a text beside a checkpoint; gives the checkpoint's path."""

    def written(text: str | bytes) -> Path:
        (tmp_path / "base.v2.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path / "base.v2.safetensors"

    return written


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", UNETS)
def test_what_is_written_is_read_back(family, prediction, beside):
    path = beside(encode(family, prediction))
    assert read_sidecar(path).prediction == prediction


@pytest.mark.parametrize("family", UNETS)
def test_sizes_are_those_of_the_webuis_own_configurations(family):
    params = yaml.safe_load(encode(family))["model"]["params"]
    unet = params["network_config" if family == "sdxl" else "unet_config"]["params"]
    assert {key: unet[key] for key in SIZES[family]} == SIZES[family]
    assert unet["model_channels"] == 320
    assert params["first_stage_config"]["params"]["ddconfig"]["ch_mult"] == [1, 2, 4, 4]
    assert params["scale_factor"] == 0.5


def test_only_later_families_have_linear_layers_at_the_ends_of_attention():
    def is_linear(family):
        params = yaml.safe_load(encode(family))["model"]["params"]
        return params.get("unet_config", params.get("network_config"))["params"]["use_linear_in_transformer"]

    assert [is_linear(family) for family in ("sd1", "sd2", "sdxl")] == [False, True, True]


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ("model: {target: ldm.models.diffusion.ddpm.LatentDiffusion, params: {linear_start: 8.5e-4}}", "epsilon"),
        ('model: {target: x.LatentDiffusion, params: {parameterization: "v"}}', "v_prediction"),
        ("model: {target: x.LatentDiffusion, params: {parameterization: eps}}", "epsilon"),
        ("model: {target: x.LatentDiffusion, params: {parameterization: x0}}", "sample"),
        ("data: {path: images}", None),
        ("model: base.safetensors", None),
        ("", None),
    ],
)
def test_only_a_models_configuration_says_something(text, prediction, beside):
    assert read_sidecar(beside(text)).prediction == prediction


def test_the_file_is_found_by_the_stem_alone(beside, tmp_path):
    beside("model: {target: x.LatentDiffusion}")
    assert read_sidecar(tmp_path / "base.v2.ckpt").path == tmp_path / "base.v2.yaml"
    assert read_sidecar(tmp_path / "base.safetensors") is None


def test_a_folder_has_none(tmp_path, beside):
    beside("model: {target: x.LatentDiffusion}")
    (tmp_path / "base.v2").mkdir()
    assert read_sidecar(tmp_path / "base.v2") is None


@pytest.mark.parametrize(
    "text",
    [
        "model: [",
        "model: !!python/object/apply:os.system ['true']",
        "model: {params: {parameterization: mu}}",
        "model: {params: {denoiser_config: {params: {scaling_config: {target: sgm.EDMScaling}}}}}",
        b"\xff\xfe",
    ],
)
def test_what_cannot_be_read_or_trained_is_refused_in_a_line(text, beside):
    with pytest.raises(ModelError, match=r"base\.v2\.yaml") as caught:
        read_sidecar(beside(text))
    assert "\n" not in str(caught.value)
