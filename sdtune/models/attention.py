"""What computes attention in the UNet and the text encoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from sdtune.errors import PlatformError
from sdtune.models import libraries

if TYPE_CHECKING:
    from torch import nn

    from sdtune.config.model import Attention

_INSTEAD = "use model.attention=sdpa"


def choose_attention(module: nn.Module, component: str, attention: Attention) -> None:
    """Let a loaded component compute attention in another way; the VAE, which nobody trains, stays as it is.

    torch's fused kernels (`sdpa`) are what diffusers and transformers use by themselves. xformers has a kernel for
    UNets alone; text encoders, whose attention is small and masked, stay with torch's.

    Raises:
        PlatformError: The package is not installed, or has no kernel for this device.
    """
    if attention == "sdpa" or component == "vae":
        return
    if component != "unet":
        if attention == "math":
            cast("Any", module).set_attn_implementation("eager")
    elif attention == "math":
        cast("Any", module).set_attn_processor(libraries.plain_attention_class()())
    else:
        _use_xformers(module)


def _use_xformers(unet: nn.Module) -> None:
    try:
        cast("Any", unet).enable_xformers_memory_efficient_attention()
    except ImportError as error:
        raise PlatformError(
            "model.attention=xformers needs the package xformers", hint=f"pip install xformers, or {_INSTEAD}"
        ) from error
    except (ValueError, RuntimeError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise PlatformError(f"model.attention: xformers cannot be used here: {reason}", hint=_INSTEAD) from error
