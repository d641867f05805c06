"""The pool the UNet learns from: latents and text states, computed once and kept in the work folder."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.demo.captions import caption
from sdtune.demo.pretrain.loop import hardware, record
from sdtune.demo.pretrain.pictures import rendered, scene_picture, to_unit
from sdtune.demo.scenes import sample_scene

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

logger = logging.getLogger(__name__)
SEED = 15
_VARIANT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Scaled posterior (N, 2, 4, 8, 8) as mean and std, text states (N, 77, 128), those of "" (77, 128); all fp16."""

    posterior: torch.Tensor
    states: torch.Tensor
    empty: torch.Tensor


@torch.no_grad()
def encode_pictures(work: Path, vae: AutoencoderKL, count: int, device: torch.device) -> torch.Tensor:
    """Return the scaled posterior means and stds (count, 2, 4, 8, 8) fp16 of the training scenes."""
    path = work / f"latents-{SEED}-{count}.pt"
    if not path.exists():
        pixels, started = rendered(work, "unet", scene_picture, SEED, count), time.monotonic()
        vae.eval()
        parts = []
        for part in torch.split(pixels, 250):
            posterior = vae.encode(to_unit(part).to(device)).latent_dist
            parts.append(torch.stack([posterior.mean, posterior.std], 1).mul(vae.config.scaling_factor).half().cpu())
        torch.save(torch.cat(parts), path)
        record(work, "latents", seconds=round(time.monotonic() - started, 1), hardware=hardware(device))
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


@torch.no_grad()
def text_states(model: CLIPTextModel, tokenizer: CLIPTokenizer, texts: list[str], device: torch.device) -> torch.Tensor:
    """Return the last hidden states (N, 77, 128) float32 of texts padded to 77 tokens."""
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return model(input_ids=ids.to(device)).last_hidden_state.float().cpu()  # type: ignore[no-any-return]


def encode_captions(
    work: Path, model: CLIPTextModel, tokenizer: CLIPTokenizer, count: int, device: torch.device
) -> torch.Tensor:
    """Return the text states (count, 77, 128) fp16 of the training scenes' captions."""
    path = work / f"states-{SEED}-{count}.pt"
    if not path.exists():
        started = time.monotonic()
        texts = [caption(sample_scene(SEED, index), _VARIANT).text for index in range(count)]
        model.eval()
        starts = range(0, count, 100)
        parts = [text_states(model, tokenizer, texts[start : start + 100], device).half() for start in starts]
        torch.save(torch.cat(parts), path)
        record(work, "states", seconds=round(time.monotonic() - started, 1), hardware=hardware(device))
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]
