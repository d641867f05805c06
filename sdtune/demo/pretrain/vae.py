"""The VAE stage: a four-level AutoencoderKL that learns scenes and free scribbles."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import torch
from diffusers import AutoencoderKL

from sdtune.demo.pretrain.loop import Schedule, Stage, generator, record
from sdtune.demo.pretrain.pictures import mixed_picture, rendered, to_unit

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)
_POOL = 30_000
_KL_WEIGHT = 2e-6
_SEED = 11


def new_vae() -> AutoencoderKL:
    """Return an untrained VAE with SD1.5's topology and 1.3 million parameters."""
    return cast(
        "AutoencoderKL",
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 32, 64, 64),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=64,
        ),
    )


def _edges(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def reconstruction_loss(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return L1 + MSE + L1 of the image gradients; both pictures (B, 3, H, W) in [-1, 1]."""
    error = decoded - pixels
    gradients = sum(edge.abs().mean() for edge in _edges(error))
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * gradients


def train_vae(work: Path, *, steps: int, batch: int, lr: float, device: torch.device) -> AutoencoderKL:
    """Train (or resume) the VAE, set its scaling factor, save it under the work folder."""
    torch.manual_seed(_SEED)
    vae = new_vae().to(device)
    pool = rendered(work, "vae", mixed_picture, _SEED, _POOL)

    def compute_loss(step: int) -> torch.Tensor:
        rng = generator(_SEED, step)
        pixels = to_unit(pool[torch.randint(_POOL, (batch,), generator=rng)])
        pixels = pixels.flip(-1) if step % 2 else pixels
        pixels = pixels.to(device)
        noise = torch.randn((batch, 4, 8, 8), generator=rng).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl().mean()
        return reconstruction_loss(decoded.float(), pixels) + _KL_WEIGHT * kl

    schedule = Schedule(steps=steps, lr=lr, warmup=100, weight_decay=1e-4)
    Stage("vae", vae, schedule, work).run(compute_loss)
    _set_scaling_factor(vae, pool[:2000], device)
    vae.save_pretrained(work / "vae")
    record(work, "vae", batch=batch, scaling_factor=vae.config.scaling_factor)
    return vae


@torch.no_grad()
def _set_scaling_factor(vae: AutoencoderKL, pool: torch.Tensor, device: torch.device) -> None:
    vae.eval()
    latents = torch.cat([vae.encode(to_unit(part).to(device)).latent_dist.mean for part in pool.split(200)])
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 5))
    logger.info("vae: scaling_factor %s", vae.config.scaling_factor)
