"""A running average of what is trained (Polyak & Juditsky 1992), in float32."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from sdtune.config.train import EmaOptions


class Ema:
    """The average of named parameters: a <- d a + (1 - d) p after each step.

    Attributes:
        average: Name to average, float32, on the parameter's device.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], *, decay: float, power: float | None) -> None:
        self._parameters = parameters
        self._decay = decay
        self._power = power
        self.average = {name: p.detach().float().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after optimizer step `step`, counted from 1."""
        values = [parameter.detach().float() for parameter in self._parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), values, 1 - self.decay(step))

    def decay(self, step: int) -> float:
        """Give d after step `step`, counted from 1: min(decay, 1 - (1 + step) ** -power)."""
        return self._decay if self._power is None else min(self._decay, 1 - (1 + step) ** -self._power)

    def load(self, average: Mapping[str, Tensor]) -> None:
        """Go on from a saved average of the same parameters."""
        for name, value in self.average.items():
            value.copy_(average[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Give the model the average for as long as the context lasts; afterwards it is as before, to the last bit."""
        live = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._assign(self.average)
        try:
            yield
        finally:
            self._assign(live)

    @torch.no_grad()
    def _assign(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])


def make_ema(parameters: Mapping[str, nn.Parameter], options: EmaOptions) -> Ema | None:
    """Build the average the options ask for, or None."""
    return None if options.decay is None else Ema(parameters, decay=options.decay, power=options.power)
