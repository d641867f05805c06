"""Forward and backward of one optimizer step, over all of its micro-batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.train.objective import make_objective
from sdtune.train.step import TrainStep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accelerate import Accelerator
    from torch import Tensor

    from sdtune.train.inputs import InputSource
    from sdtune.train.run import Run
    from sdtune.train.step import StepInputs
    from sdtune.train.update import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Sums of one optimizer step, still tensors where reading them would wait for the device.

    Attributes:
        loss: Weighted loss, the mean over the step's samples.
        terms: Named parts of the loss, unweighted means.
        sample_ids: What the step trained on.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    sample_ids: tuple[str, ...]


class Gradients:
    """Leave the gradients of a step in the trained parameters."""

    def __init__(self, run: Run, source: InputSource, accelerator: Accelerator, update: Update) -> None:
        self._run = run
        self._source = source
        self._accelerator = accelerator
        self._update = update
        self._module = accelerator.prepare(TrainStep(run.model, run.method, make_objective(run.options, run.model)))
        self._module.train()

    def compute(self, step: int) -> StepResult:
        """Do forward and backward of optimizer step `step`, counted from 0."""
        batches = [self._source.plan(micro) for micro in self._run.timetable.micro_steps(step)]
        count = sum(len(batch.visits) for _, batch in batches)
        losses: list[Tensor] = []
        terms: dict[str, Tensor] = {}
        prior = _PriorLosses(is_used=bool(self._run.rotations))
        for number, (epoch, batch) in enumerate(batches, start=1):
            inputs = self._source.inputs(epoch, batch)
            self._source.drawer.seed_layers(epoch, [visit.sample_id for visit in batch.visits])
            share, named = self._micro_step(inputs, count, is_last=number == len(batches))
            losses.append(share)
            for name, term in named.items():
                terms[name] = terms.get(name, torch.zeros_like(share)) + term.sum() / count
            prior.add(named, inputs.is_regularization)
        ids = tuple(visit.sample_id for _, batch in batches for visit in batch.visits)
        return StepResult(loss=torch.stack(losses).sum(), terms=terms | prior.means(), sample_ids=ids)

    def _micro_step(self, inputs: StepInputs, count: int, *, is_last: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of one batch; its losses are divided by the samples of the whole step."""
        if is_last:
            return self._backward(inputs, count)
        with self._accelerator.no_sync(self._module):
            return self._backward(inputs, count)

    def _backward(self, inputs: StepInputs, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        losses, terms = self._module(inputs)
        share = losses.sum() / count
        if self._update.acts_in_backward and not math.isfinite(float(share.detach())):
            return share.detach(), terms  # the loop stops for it, and nothing has moved
        self._accelerator.backward(self._update.scaled(share))
        return share.detach(), terms


class _PriorLosses:
    """Unweighted losses of one step, the subject's and its class's apart."""

    def __init__(self, *, is_used: bool) -> None:
        self._is_used = is_used
        self._losses: dict[str, list[Tensor]] = {"instance": [], "prior": []}

    def add(self, terms: Mapping[str, Tensor], is_regularization: Sequence[bool]) -> None:
        """Take in a batch: named terms, each (B,)."""
        if self._is_used:
            losses = torch.stack(list(terms.values())).sum(0)
            for loss, is_prior in zip(losses.unbind(), is_regularization, strict=True):
                self._losses["prior" if is_prior else "instance"].append(loss)

    def means(self) -> dict[str, Tensor]:
        """Give the mean of each kind that the step had samples of."""
        return {name: torch.stack(losses).mean() for name, losses in self._losses.items() if losses}
