"""The UNet stage: denoising of latents under frozen text states."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from sdtune.demo.pretrain.loop import Schedule, Stage, generator, record

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.demo.pretrain.pool import Pool

logger = logging.getLogger(__name__)
_SEED = 16
_BATCH, _LR = 64, 1e-3
_GAMMA = 5.0
_CAPTION_DROPOUT = 0.1


def new_unet() -> UNet2DConditionModel:
    """Return an untrained UNet with SD1.5's topology and 11 million parameters."""
    return cast(
        "UNet2DConditionModel",
        UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            block_out_channels=(64, 96, 128, 128),
            layers_per_block=2,
            cross_attention_dim=128,
            attention_head_dim=4,  # the number of heads, as SD1.5's config uses the name
        ),
    )


def noise_schedule() -> DDPMScheduler:
    """Return Stable Diffusion's training schedule."""
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)


def snr_weights(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Return min(snr, 5) / snr for every timestep (Hang et al. 2023, section 3.4, epsilon target)."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=_GAMMA) / snr


def train_unet(work: Path, pool: Pool, *, steps: int, device: torch.device) -> UNet2DConditionModel:
    """Train (or resume) the UNet, save the EMA weights under the work folder."""
    torch.manual_seed(_SEED)
    unet = new_unet().to(device)
    schedule = noise_schedule()
    alpha_bar = schedule.alphas_cumprod
    weights = snr_weights(alpha_bar)

    def compute_loss(step: int) -> torch.Tensor:
        rng = generator(_SEED, step)
        rows = torch.randint(len(pool.posterior), (_BATCH,), generator=rng)
        mean, std = pool.posterior[rows].float().unbind(1)
        x_0 = mean + std * torch.randn(mean.shape, generator=rng)
        states = pool.states[rows].float()
        states[torch.rand(_BATCH, generator=rng) < _CAPTION_DROPOUT] = pool.empty.float()
        # stratified timesteps: the same distribution, less variance
        t = ((torch.arange(_BATCH) + torch.rand(_BATCH, generator=rng)) * 1000 / _BATCH).long().clamp(max=999)
        noise = torch.randn(x_0.shape, generator=rng)
        x_t = alpha_bar[t].sqrt()[:, None, None, None] * x_0 + (1 - alpha_bar[t]).sqrt()[:, None, None, None] * noise
        predicted = unet(x_t.to(device), t.to(device), encoder_hidden_states=states.to(device)).sample
        error = (predicted - noise.to(device)).square().mean((1, 2, 3))
        loss: torch.Tensor = (weights[t].to(device) * error).mean()
        return loss

    plan = Schedule(steps=steps, lr=_LR, warmup=150, weight_decay=0.01, ema_decay=0.998)
    ema = Stage("unet", unet, plan, work).run(compute_loss)
    ema.save_pretrained(work / "unet")  # type: ignore[operator]
    record(work, "unet", batch=_BATCH, images_seen=steps * _BATCH, scenes=len(pool.posterior))
    return cast("UNet2DConditionModel", ema)
