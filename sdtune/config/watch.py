"""Options of what is watched while training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sdtune.config.base import Options
from sdtune.config.kinds import PositiveInt


class WatchOptions(Options):
    """What is watched while training; each warning comes once, on the screen and in `log.txt`."""

    every_steps: PositiveInt | None = 10
    """Look at gradients, updates and memory every so many steps: warn of layers that learn nothing, of learning rates
    far off, and of memory that grows. null: never."""
    loss_spike: Annotated[float, Field(gt=1)] = 100
    """A loss so many times the running average is a spike: a warning names its images."""
    stop_on_spike: bool = False
    """End the run at a spike, before its step is taken; the state is saved."""
