"""DreamBooth: the whole UNet, and if wanted the text encoder, learns a subject."""

from __future__ import annotations

from sdtune.api import MethodSpec, hookimpl
from sdtune_dreambooth.config import DreamBoothOptions


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the method `dreambooth`."""
    return [
        MethodSpec(
            name="dreambooth",
            summary="DreamBooth: all weights of the UNet learn, and if wanted the text encoder; gives a whole model",
            config=DreamBoothOptions,
            factory="sdtune_dreambooth.method:DreamBoothMethod",
            demo=("train.steps=150", "train.batch_size=2", "dreambooth.unet_lr=1e-4"),
            flags=("unet_lr", "text_encoder", "text_encoder_lr", "text_encoder_stop", "diffusers"),
            switches=(("lora", "lora"),),
        )
    ]
