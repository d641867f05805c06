"""LyCORIS algorithms and DyLoRA for every model family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.api import MethodSpec, hookimpl
from sdtune_lycoris.config import DyloraOptions, LycorisOptions

if TYPE_CHECKING:
    import click


_DEMO = ("train.steps=300", "train.batch_size=5", "train.lr=2e-3", "train.schedule.name=cosine")


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the methods `lycoris` and `dylora`."""
    return [
        MethodSpec(
            name="lycoris",
            summary="LyCORIS: LoCon, LoHa, LoKr, (IA)^3, full, GLoRA, diag-OFT, BOFT",
            config=LycorisOptions,
            factory="sdtune_lycoris.method:LycorisMethod",
            demo=(*_DEMO, "lycoris.algo=lokr", "lycoris.factor=4", "lycoris.preset=unet-only"),
            flags=("algo", "preset", "rank", "alpha", "conv_rank", "factor", "unet_lr", "text_encoder_lr"),
        ),
        MethodSpec(
            name="dylora",
            summary="DyLoRA: a LoRA that can be cut to lower ranks afterwards",
            config=DyloraOptions,
            factory="sdtune_lycoris.dylora:DyloraMethod",
            demo=(*_DEMO, "dylora.preset=unet-only"),
            flags=("rank", "alpha", "unit", "preset", "unet_lr", "text_encoder_lr"),
        ),
    ]


@hookimpl
def sdtune_commands() -> list[click.Command]:
    """Bring the command `dylora`."""
    from sdtune_lycoris.cli import dylora_command

    return [dylora_command]
