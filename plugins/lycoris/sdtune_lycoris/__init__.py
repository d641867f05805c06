"""LyCORIS algorithms and DyLoRA for every model family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.api import MethodSpec, hookimpl
from sdtune_lycoris.config import DyloraOptions, LycorisOptions

if TYPE_CHECKING:
    import click


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the methods `lycoris` and `dylora`."""
    return [
        MethodSpec(
            name="lycoris",
            summary="LyCORIS: LoCon, LoHa, LoKr, (IA)^3, full, GLoRA, diag-OFT, BOFT",
            config=LycorisOptions,
            factory="sdtune_lycoris.method:LycorisMethod",
            flags=("algo", "preset", "rank", "alpha", "conv_rank", "factor", "unet_lr", "text_encoder_lr"),
        ),
        MethodSpec(
            name="dylora",
            summary="DyLoRA: a LoRA that can be cut to lower ranks afterwards",
            config=DyloraOptions,
            factory="sdtune_lycoris.dylora:DyloraMethod",
            flags=("rank", "alpha", "unit", "preset", "unet_lr", "text_encoder_lr"),
        ),
    ]


@hookimpl
def sdtune_commands() -> list[click.Command]:
    """Bring the command `dylora`."""
    from sdtune_lycoris.cli import dylora_command

    return [dylora_command]
