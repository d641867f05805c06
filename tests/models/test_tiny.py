from __future__ import annotations

import pytest
import torch

from sdtune.models.architecture import SD1
from sdtune.models.storage import open_storage
from sdtune.testing import tiny
from sdtune.testing.full import full_model


def test_the_seed_decides_the_weights(tmp_path, tiny_file):
    same = tiny.tiny_sd1(tmp_path / "same.safetensors")
    other = tiny.tiny_sd1(tmp_path / "other.safetensors", seed=1)
    assert same.read_bytes() == tiny_file.read_bytes()
    assert other.read_bytes() != tiny_file.read_bytes()


def test_widths_and_layers_can_be_chosen(tmp_path):
    path = tiny.tiny_sd1(tmp_path / "m", text_layers=3, block_out_channels=(32, 64, 64, 64))
    parts = open_storage(path, SD1).components
    assert parts["unet"].shapes["down_blocks.1.resnets.0.conv1.weight"] == (64, 32, 3, 3)
    assert "text_model.encoder.layers.2.mlp.fc1.weight" in parts["text_encoder"].entries


@pytest.mark.slow
def test_the_full_width_file_loads_and_computes(tmp_path, open_sd):
    path = full_model(tmp_path / "full.safetensors", "sd1", torch.bfloat16)
    model = open_sd(path, *SD1.components, dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.part("unet").parameters()) == 859_520_964
    with torch.no_grad():
        answer = model.denoise(torch.randn(1, 4, 16, 16), torch.tensor([500]), model.encode_prompt(["a cat"]))
    assert answer.isfinite().all()
    assert answer.std() > 0.01
