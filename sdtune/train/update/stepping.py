"""Moving parameters by an optimizer: all together, or one after another so that little is in memory at once."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

from sdtune.train.update.rounding import draw_low_bits, round_stochastically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from sdtune.train.method import ParamGroup


class Stepper:
    """Moves named parameters, which a single optimizer knows.

    One after another, each has the optimizer to itself: its group, for that moment, holds it alone. What an optimizer
    keeps in a group, such as a count of steps, begins each time as it was before the step, and is put back once.
    Optimizers that look at all parameters together would go astray; see `OptimizerEntry.is_joint`.
    """

    def __init__(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], store: Store | None) -> None:
        self._optimizer = optimizer
        self._parameters = parameters
        self._store = store
        ids = {id(parameter): k for k, group in enumerate(optimizer.param_groups) for parameter in group["params"]}
        self._group_of = {name: ids[id(parameter)] for name, parameter in parameters.items()}
        self._moved: dict[int, dict[str, Any]] = {}

    def move_all(self, step: int) -> None:
        """Move all parameters that have gradients together; `step` counts from 0."""
        with self._widened([name for name, parameter in self._parameters.items() if parameter.grad is not None], step):
            self._optimizer.step()

    def move_each(self, step: int) -> None:
        """Move all parameters that have gradients one after another."""
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self.move(name, step)
        self.finish()

    def move(self, name: str, step: int) -> None:
        """Move one parameter and forget its gradient; after the last one call `finish`."""
        optimizer, parameter, number = self._optimizer, self._parameters[name], self._group_of[name]
        groups = optimizer.param_groups
        alone = {**groups[number], "params": [parameter]}
        optimizer.param_groups = [alone]
        try:
            with self._widened([name], step):
                optimizer.step()
        finally:
            optimizer.param_groups = groups
        parameter.grad = None
        self._moved[number] = alone

    def finish(self) -> None:
        """Put back what the optimizer changed in its groups."""
        for number, alone in self._moved.items():
            own = {key: value for key, value in alone.items() if key != "params"}
            self._optimizer.param_groups[number].update(own)
        self._moved.clear()

    def _widened(self, names: Sequence[str], step: int) -> AbstractContextManager[None]:
        if self._store is None:
            return nullcontext()
        return self._store.widened(self._optimizer, {name: self._parameters[name] for name in names}, step)


class Store:
    """Keeps parameters and their optimizer state in bfloat16; they are float32 for the moment of a step.

    Both come back by stochastic rounding: a second moment with a decay of 0.999 changes by less than half of its last
    place and would otherwise stand still, as weights do.

    Attributes:
        seed: Of the draws, which are functions of it, of the step and of the names.
        holds_state: The optimizer's state is in bfloat16 too; else it is as the optimizer keeps it.
    """

    def __init__(self, seed: int, *, holds_state: bool) -> None:
        self.seed = seed
        self.holds_state = holds_state

    @contextmanager
    @torch.no_grad()
    def widened(self, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], step: int) -> Iterator[None]:
        """Give parameters, gradients and state in float32 for as long as the context lasts; step counts from 0."""
        for parameter in parameters.values():
            _widen(parameter, optimizer.state.get(parameter, {}))
        yield
        for name, parameter in parameters.items():
            parameter.data = self._rounded(parameter.data, step, name)
            if self.holds_state:
                state = optimizer.state.get(parameter, {})
                for key in _like(parameter, state, torch.float32):
                    state[key] = self._rounded(state[key], step, name, key)

    def _rounded(self, values: Tensor, step: int, *keys: str) -> Tensor:
        return round_stochastically(values, draw_low_bits(values, self.seed, step, *keys))


def _widen(parameter: nn.Parameter, state: dict[str, Any]) -> None:
    gradient = parameter.grad
    parameter.data = parameter.data.float()
    if gradient is not None:
        parameter.grad = gradient.float()  # only now, since its dtype must be the parameter's
    for key in _like(parameter, state, torch.bfloat16):
        state[key] = state[key].float()


def _like(parameter: nn.Parameter, state: Mapping[str, Any], dtype: torch.dtype) -> list[str]:
    """List the state that has a number for each of the parameter's: neither counts, nor factors, nor tables."""
    return [
        key
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.dtype == dtype and value.dim() and value.shape == parameter.shape
    ]


def narrow(groups: Sequence[ParamGroup]) -> None:
    """Hold parameters in bfloat16 from now on."""
    for group in groups:
        for parameter in group.params.values():
            parameter.data = parameter.data.to(torch.bfloat16)
