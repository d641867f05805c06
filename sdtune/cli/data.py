"""`sdtune data`: look at images and captions, and prepare them."""

from __future__ import annotations

from typing import ClassVar

import click

from sdtune.cli.lazy import LazyGroup


class DataGroup(LazyGroup):
    """The commands about images."""

    table: ClassVar = {
        "check": (
            "sdtune.cli.data_check:check",
            "Find what is wrong with images and captions, and say how to mend it.",
        ),
        "buckets": ("sdtune.cli.data_buckets:buckets", "Show how each image is resized and cropped."),
        "cache": ("sdtune.cli.data_cache:cache", "Fill the caches of a run, ahead of it."),
        "new": ("sdtune.cli.data_new:new", "Make the folders of a new data set."),
    }


@click.group(cls=DataGroup)
def data() -> None:
    """Look at images and captions, and prepare them."""
