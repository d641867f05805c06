"""The VAE stage: a four-level AutoencoderKL that learns scenes and free scribbles."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn.functional import avg_pool2d

from sdtune.demo.pretrain.loop import Schedule, Stage, generator, record
from sdtune.demo.pretrain.pictures import mixed_picture, rendered, scene_picture, to_unit, toy_view

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)
_POOL = 30_000
_KL_WEIGHT = 2e-6
_NOISE_FLOOR = 0.1  # the latents' std is about 1.6
_SEED = 11
_BATCH, _LR = 16, 1e-3
# name, drawing, seed, pictures of the pool, of which the decoder stage takes the first; the pools of other stages
_DECODER_POOLS = (
    ("unet", scene_picture, 15, 32_000, 4000),
    ("judge-toys", toy_view, 14, 10_000, 3000),
    ("vae", mixed_picture, _SEED, _POOL, 2000),
)


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
            norm_num_groups=2,
            sample_size=64,
        ),
    )


@torch.no_grad()
def start_linear(vae: AutoencoderKL) -> None:
    """Initialise the VAE as "average of 8 x 8 pixels in, that colour out", which it then only has to refine.

    Residual branches begin at zero and the path around them copies channels. Constant channels steady the
    statistics of the two group norms at the ends, so these begin as nearly affine maps: with the usual random start
    the colours alone took thousands of steps to come through them.
    """
    for half in (vae.encoder, vae.decoder):
        for module in half.modules():
            if isinstance(module, ResnetBlock2D):
                module.conv2.weight.zero_()
                if module.conv_shortcut is not None:
                    _copy_channels(module.conv_shortcut)
            elif isinstance(module, Attention):
                module.to_out[0].weight.zero_()
            elif isinstance(module, Upsample2D):
                _copy_channels(module.conv)
            elif isinstance(module, Downsample2D):
                _copy_channels(module.conv)
                module.conv.weight.zero_()
                diagonal = torch.arange(module.conv.out_channels)
                module.conv.weight[diagonal, diagonal, :2, :2] = 0.25
        _copy_channels(half.conv_in)
        torch.nn.init.constant_(half.conv_norm_out.bias, 1.0)
        _copy_channels(half.conv_out)
        torch.nn.init.constant_(half.conv_out.bias, -0.75)
    _copy_channels(vae.quant_conv)
    _copy_channels(vae.post_quant_conv)
    vae.encoder.conv_out.weight[4:].zero_()
    vae.encoder.conv_out.bias[4:] = -4.0


def _copy_channels(conv: torch.nn.Conv2d) -> None:
    """Make a convolution copy its input channels; channels without an input become constants of +0.5 or -0.5."""
    torch.nn.init.dirac_(conv.weight)
    conv.weight.add_(torch.randn_like(conv.weight), alpha=0.003)
    if conv.bias is not None:
        torch.nn.init.zeros_(conv.bias)
        extra = torch.arange(min(conv.in_channels, conv.out_channels), conv.out_channels)
        conv.bias[extra] = 0.5 * (-1.0) ** extra.float()


def reconstruction_loss(decoded: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Return L1 + MSE + L1 of 4 x 4 averages + L1 of the image gradients; pictures (B, 3, H, W) in [-1, 1]."""
    error = decoded - pixels
    gradients = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    coarse = avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * coarse + 0.2 * gradients


def train_vae(work: Path, *, steps: int, device: torch.device) -> AutoencoderKL:
    """Train (or resume) the VAE, set its scaling factor, save it under the work folder."""
    torch.manual_seed(_SEED)
    vae = new_vae()
    start_linear(vae)
    vae.to(device)
    pool = rendered(work, "vae", mixed_picture, _SEED, _POOL)

    def compute_loss(step: int) -> torch.Tensor:
        rng = generator(_SEED, step)
        pixels = to_unit(pool[torch.randint(_POOL, (_BATCH,), generator=rng)])
        pixels = pixels.flip(-1) if step % 2 else pixels
        pixels = pixels.to(device)
        noise = torch.randn((_BATCH, 4, 8, 8), generator=rng).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            # the floor keeps details from hiding in differences too small for a UNet to draw
            decoded = vae.decode(posterior.mean + posterior.std.clamp(min=_NOISE_FLOOR) * noise).sample
        kl = posterior.kl().mean()
        loss: torch.Tensor = reconstruction_loss(decoded.float(), pixels) + _KL_WEIGHT * kl
        return loss

    schedule = Schedule(steps=steps, lr=_LR, warmup=100, weight_decay=1e-4)
    Stage("vae", vae, schedule, work).run(compute_loss)
    _set_scaling_factor(vae, pool[:2000], device)
    vae.save_pretrained(work / "vae")
    record(work, "vae", batch=_BATCH, scaling_factor=vae.config.scaling_factor)
    return vae


def train_decoder(work: Path, *, steps: int, device: torch.device) -> AutoencoderKL:
    """Train (or resume) the decoder alone, with more toys; the latents stay those the UNet learned."""
    vae = AutoencoderKL.from_pretrained(work / "vae").to(device)
    parts = [rendered(work, name, draw, seed, count)[:keep] for name, draw, seed, count, keep in _DECODER_POOLS]
    pool = torch.cat(parts)
    latents = _encoded(vae, pool, device)
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder])

    def compute_loss(step: int) -> torch.Tensor:
        rng = generator(_SEED + 1, step)
        rows = torch.randint(len(pool), (_BATCH,), generator=rng)
        noise = torch.randn((_BATCH, 4, 8, 8), generator=rng) * _NOISE_FLOOR
        with torch.autocast(device.type, dtype=torch.bfloat16):
            decoded = vae.decode((latents[rows] + noise).to(device)).sample
        return reconstruction_loss(decoded.float(), to_unit(pool[rows]).to(device))

    Stage("decoder", decoder, Schedule(steps=steps, lr=_LR, warmup=50, weight_decay=1e-4), work).run(compute_loss)
    record(work, "decoder", batch=_BATCH, pictures=len(pool))
    vae.save_pretrained(work / "vae")
    return cast("AutoencoderKL", vae)


@torch.no_grad()
def _encoded(vae: AutoencoderKL, pool: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat([vae.encode(to_unit(part).to(device)).latent_dist.mean.cpu() for part in torch.split(pool, 200)])


@torch.no_grad()
def _set_scaling_factor(vae: AutoencoderKL, pool: torch.Tensor, device: torch.device) -> None:
    vae.eval()
    latents = _encoded(vae, pool, device)
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 5))
    logger.info("vae: scaling_factor %s", vae.config.scaling_factor)
