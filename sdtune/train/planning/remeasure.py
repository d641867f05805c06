"""What other settings would save in a run that has been assembled, by a forecast of it with these settings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdtune.data.order.plan import arrange
from sdtune.errors import SdtuneError
from sdtune.train.needs.forecast import make_forecast
from sdtune.train.planning.fitting import put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.config.schema import CoreOptions
    from sdtune.train.run import Run

# neither images nor weights have to be read anew for them
_ALONE = frozenset({"train.batch_size", "train.gradient_accumulation", "train.optimizer.name", "train.ema.decay"})


def saving(run: Run, changes: Mapping[str, str]) -> int | None:
    """Tell how many bytes less a run needs at its peak with other settings; it is left as it was.

    Args:
        run: A run with a forecast; else nothing is known.
        changes: Dotted option to its new value, as the command line takes it.

    Returns:
        None where it cannot be told: the run has to be assembled anew for it, or memory is too short for a forecast.
    """
    if run.forecast is None or not changes.keys() <= _ALONE:
        return None
    options: Any = run.options
    for name, text in changes.items():
        options = put(options, name.split("."), _value(text))
    try:
        now, other = make_forecast(run), make_forecast(_changed(run, options))  # the program has grown since
    except (SdtuneError, MemoryError, torch.OutOfMemoryError):
        return None
    return now.peak.total - other.peak.total


def _changed(run: Run, options: CoreOptions) -> Run:
    order = arrange(run.index.images, run.placements, options.train.batch_size, options.regularization.ratio)
    return replace(run, options=options, order=order)


def missing_bytes(run: Run) -> int | None:
    """Tell how much more than its GPU has a run needs by its forecast; None: not known, or it should have fitted."""
    if run.forecast is None or run.device.type != "cuda":
        return None
    missing = run.forecast.peak.total - torch.cuda.get_device_properties(run.device).total_memory
    return missing if missing > 0 else None


def _value(text: str) -> object:
    return json.loads(text) if text == "null" or text.isdecimal() else text
