"""A small model with the topology of Stable Diffusion 1, behind the four methods that LoRA uses."""

import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from sdtune.api import Target

WIDTH = 32


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unet = UNet2DConditionModel(
            block_out_channels=(8, 16, 32, 32),
            layers_per_block=2,
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=50,
                hidden_size=WIDTH,
                intermediate_size=64,
                num_hidden_layers=12,
                num_attention_heads=2,
                max_position_embeddings=8,
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
        self.requires_grad_(False)
        self.eval()

    def targets(self, parts):
        for part in parts:
            for name, module in getattr(self, part).named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d) and (kind := _kind(part, name)):
                    path = f"{part}.{'text_model.' if part == 'text_encoder' else ''}{name}"
                    yield Target(path=path, module=module, part=part, kind=kind, block=_block(name))

    def replace(self, path, module):
        self.set_submodule(path.replace("text_model.", ""), module)

    def webui_key(self, path):
        part, name = path.split(".", 1)
        return f"{'lora_unet' if part == 'unet' else 'lora_te'}_{name.replace('.', '_')}"

    def forward(self, latents, timesteps, tokens):
        hidden = self.text_encoder(tokens).last_hidden_state
        return self.unet(latents, timesteps, hidden).sample


def _kind(part, name):
    if part == "text_encoder":
        return "text" if re.search(r"self_attn|mlp", name) else None
    kinds = {"attentions": "attention", "resnets": "resnet", "downsamplers": "sampler", "upsamplers": "sampler"}
    return next((kind for word, kind in kinds.items() if f".{word}." in name), None)


def _block(name):
    if found := re.match(r"(down|up)_blocks\.(\d)", name):
        return f"{found[1]}_{found[2]}"
    return "mid" if name.startswith("mid_block") else "layer_" + re.search(r"layers\.(\d+)", name)[1]


@pytest.fixture
def model():
    return TinyModel()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 8, 8, generator=generator)
    return latents, torch.tensor([10, 900]), torch.randint(0, 50, (2, 8), generator=generator)
