"""LoRA and LoCon for every model family."""

from __future__ import annotations

from sdtune.api import MethodSpec, hookimpl
from sdtune_lora.config import LoraOptions


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the method `lora`."""
    return [
        MethodSpec(
            name="lora",
            summary="LoRA: two small matrices beside each layer; with conv_rank also convolutions (LoCon)",
            config=LoraOptions,
            factory="sdtune_lora.method:LoraMethod",
            is_usual=True,
            demo=(
                "train.steps=300",
                "train.batch_size=5",
                "train.lr=2e-3",
                "train.schedule.name=cosine",
                "lora.rank=16",
                "lora.conv_rank=16",
                "lora.text_encoder=false",
            ),
            flags=("rank", "alpha", "conv_rank", "unet_lr", "text_encoder_lr", "from_file"),
        )
    ]
