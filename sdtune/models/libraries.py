"""The narrow way into diffusers and transformers."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def _without(package: str, library: str) -> Iterator[None]:
    """Make a package look absent while a library is imported, unless either is imported already.

    A library that somebody imported before has noted what it found, and would not take the absence.
    """
    if package in sys.modules or library in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # the documented way to block an import
    try:
        yield
    finally:
        sys.modules.pop(package, None)


@cache
def unet_class() -> Any:
    """Import `UNet2DConditionModel`."""
    # diffusers 0.42 imports bitsandbytes for its quantizers if it is installed: 2 s and a line on the terminal for
    # nothing, since no model is quantized here. The optimizer that needs it imports it itself, before or after.
    with _without("bitsandbytes", "diffusers"):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    return UNet2DConditionModel


@cache
def plain_attention_class() -> Any:
    """Import `AttnProcessor`, which computes attention by sums and products."""
    with _without("bitsandbytes", "diffusers"):
        from diffusers.models.attention_processor import AttnProcessor
    return AttnProcessor


@cache
def vae_class() -> Any:
    """Import `AutoencoderKL`."""
    with _without("bitsandbytes", "diffusers"):
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    return AutoencoderKL


@cache
def scheduler_classes() -> tuple[Any, Any, Any]:
    """Import `DPMSolverMultistepScheduler`, `EulerAncestralDiscreteScheduler` and `DDIMScheduler`."""
    with _without("bitsandbytes", "diffusers"):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
        from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
    return DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, DDIMScheduler


@cache
def text_classes() -> tuple[Any, Any]:
    """Import `CLIPTextModel` and `CLIPTextConfig`."""
    with _without("bitsandbytes", "transformers"):
        from transformers.models.clip.configuration_clip import CLIPTextConfig
        from transformers.models.clip.modeling_clip import CLIPTextModel
    return CLIPTextModel, CLIPTextConfig


@cache
def projecting_text_class() -> Any:
    """Import `CLIPTextModelWithProjection`."""
    with _without("bitsandbytes", "transformers"):
        from transformers.models.clip.modeling_clip import CLIPTextModelWithProjection
    return CLIPTextModelWithProjection


def checkpoint_text_encoder(model: Any) -> None:
    """Let a transformers model compute its layers again in backward."""
    # transformers 5.23 renamed the method and warns at the old name, which 5.0 has and 6 will not
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # transformers checkpoints in training mode only; CLIP has no dropout, so that changes nothing else
    model.train()


@cache
def tokenizer_class() -> Any:
    """Import `CLIPTokenizer`."""
    with _without("bitsandbytes", "transformers"):
        from transformers.models.clip.tokenization_clip import CLIPTokenizer
    return CLIPTokenizer
