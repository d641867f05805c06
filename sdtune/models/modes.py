"""Ask a model while it is being trained, and leave no trace."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module and all inside into eval mode, without gradients; afterwards each is in the mode it was in."""
    modules = list(module.modules())
    modes = [inner.training for inner in modules]
    try:
        module.eval()
        with torch.no_grad():
            yield
    finally:
        for inner, mode in zip(modules, modes, strict=True):
            inner.training = mode
