"""Textual inversion for every model family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.api import MethodSpec, hookimpl
from sdtune_textual_inversion.config import TextualInversionOptions

if TYPE_CHECKING:
    import click


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the method `textual_inversion`."""
    return [
        MethodSpec(
            name="textual_inversion",
            summary="Textual inversion: vectors for a new word of the prompt; the model stays as it is",
            config=TextualInversionOptions,
            factory="sdtune_textual_inversion.method:TextualInversionMethod",
            aliases=("ti",),
            demo=(
                "train.steps=300",
                "train.batch_size=5",
                "textual_inversion.lr=2e-2",
                "textual_inversion.init_text=red",
                "textual_inversion.template=none",
            ),
            flags=("token", "vectors", "init_text", "template", "lr"),
        )
    ]


@hookimpl
def sdtune_commands() -> list[click.Command]:
    """Bring the command `embedding`."""
    from sdtune_textual_inversion.commands import embedding

    return [embedding]
