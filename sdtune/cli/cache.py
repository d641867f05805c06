"""`sdtune cache`: look after what is kept between runs."""

from __future__ import annotations

from typing import ClassVar

import click

from sdtune.cli.lazy import LazyGroup


class CacheGroup(LazyGroup):
    """The commands about caches."""

    table: ClassVar = {
        "verify": ("sdtune.cli.cache_verify:verify", "Read every entry, and drop what is damaged."),
        "prune": ("sdtune.cli.cache_prune:prune", "Remove what no run has used for long."),
    }


@click.group(cls=CacheGroup)
def cache() -> None:
    """Look after what is kept between runs."""
