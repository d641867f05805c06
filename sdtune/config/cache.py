"""Options of caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sdtune.config.base import Options
from sdtune.config.kinds import PositiveInt

CacheMode = Literal["auto", "disk", "ram", "off"]


class CacheOptions(Options):
    """Latents and text hidden states, computed once and kept by content."""

    latents: CacheMode = "disk"
    """`disk` keeps the VAE's mean and std for later runs; `ram` for this run; `off` encodes at each step; `auto`:
    `disk` where all of them are there already, else `ram` where they fit into `ram_gib`, else `disk`."""
    text: CacheMode = "auto"
    """The same for the text encoder's output; only where the method does not train the text encoder."""
    ram_gib: Annotated[float, Field(ge=0)] = 2.0
    """GiB of memory that each cache may take with `auto`."""
    dir: Path | None = None
    """Cache folder; null: the user's cache folder, never the image folder."""
    vae_batch_size: PositiveInt = 1
    """Images encoded at once while the cache is filled."""
