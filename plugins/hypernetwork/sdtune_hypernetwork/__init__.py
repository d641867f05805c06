"""Hypernetworks: small networks before the keys and values of attention, as webui has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.api import MethodSpec, hookimpl
from sdtune_hypernetwork.config import HypernetworkOptions

if TYPE_CHECKING:
    import click


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the method `hypernetwork`."""
    return [
        MethodSpec(
            name="hypernetwork",
            summary="Hypernetwork: small networks before the keys and values of attention, as in A1111's webui",
            config=HypernetworkOptions,
            factory="sdtune_hypernetwork.method:HypernetworkMethod",
            aliases=("hypernet",),
            demo=("train.steps=150", "train.batch_size=5", "train.lr=1e-3", "train.schedule.name=cosine"),
            flags=("structure", "activation", "init", "layer_norm", "dropout", "sizes", "from_file"),
        )
    ]


@hookimpl
def sdtune_commands() -> list[click.Command]:
    """Bring the command `hypernet`."""
    from sdtune_hypernetwork.commands import hypernet

    return [hypernet]
