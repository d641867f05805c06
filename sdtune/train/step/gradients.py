"""Forward and backward of one optimizer step, over all of its micro-batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from sdtune.train.machine.ranks import GradientSum
from sdtune.train.step.forward import TrainStep
from sdtune.train.step.objective import make_objective

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor

    from sdtune.data.types import BatchPlan
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.run import Run
    from sdtune.train.step.forward import StepInputs
    from sdtune.train.update.updating import Update


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """Sums of one optimizer step, still tensors where reading them would wait for the device.

    Attributes:
        loss: Weighted loss, the mean over the step's samples.
        terms: Named parts of the loss, unweighted means.
        sample_ids: What the step trained on.
        losses: (N,) weighted loss of each sample.
        timesteps: (N,) int64, the timestep of each.
    """

    loss: Tensor
    terms: Mapping[str, Tensor]
    sample_ids: tuple[str, ...]
    losses: Tensor
    timesteps: Tensor


class Gradients:
    """Leave the gradients of a step in the trained parameters: in each process those of the whole step."""

    def __init__(self, run: Run, source: InputSource, update: Update) -> None:
        self._run = run
        self._source = source
        self._update = update
        self._module = TrainStep(run.model, run.method, make_objective(run.options, run.model))
        self._module.train()
        self._sum = GradientSum(run.ranks, list(run.parameters().values()))
        self._feed: Generator[StepInputs] | None = None
        self._next_step = -1  # what the feed goes on with

    def compute(self, step: int) -> StepResult:
        """Do forward and backward of optimizer step `step`, counted from 0."""
        plan = self._source.plan_step(step)
        feed = self._feed_of(step)
        count = len(plan.sample_ids)
        sums = StepSums(has_prior=bool(self._run.order.rotations))
        for batch in plan.own:
            inputs = next(feed)
            self._source.drawer.seed_layers(plan.epoch, [visit.sample_id for visit in batch.visits])
            losses, terms = self._backward(inputs, count)
            sums.add(losses, terms, inputs, count)
        self._next_step = step + 1
        if self._run.ranks.size > 1:
            sums = self._exchange(sums)
        return StepResult(
            loss=sums.loss(count),
            terms=sums.terms | sums.prior_means(),
            sample_ids=plan.sample_ids,
            losses=torch.cat(sums.losses),
            timesteps=torch.cat(sums.timesteps),
        )

    def rehearse(self, epoch: int, batch: BatchPlan) -> None:
        """Do forward and backward of a batch for their memory alone; no parameter gets a gradient."""
        inputs = self._source.inputs(epoch, batch)
        self._source.drawer.seed_layers(epoch, [visit.sample_id for visit in batch.visits])
        trained = [parameter for parameter in self._run.parameters().values() if parameter.requires_grad]
        losses, _ = self._module(inputs)
        torch.autograd.grad(losses.sum(), trained, allow_unused=True)

    def close(self) -> None:
        """End the preparation of inputs."""
        if self._feed is not None:
            self._feed.close()
        self._feed, self._next_step = None, -1

    def _feed_of(self, step: int) -> Generator[StepInputs]:
        if self._feed is None or step != self._next_step:
            self.close()
            self._feed = self._source.feed(step)
        return self._feed

    def _backward(self, inputs: StepInputs, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Forward and backward of one batch; its losses are divided by the samples of the whole step."""
        losses, terms = self._module(inputs)
        if self._update.acts_in_backward and not bool(losses.isfinite().all()):
            return losses.detach(), terms  # the loop stops for it, and nothing has moved
        torch.autograd.backward(self._update.scaled(losses.sum() / count))
        return losses.detach(), terms

    def _exchange(self, own: StepSums) -> StepSums:
        """Meet the other processes: add up gradients, losses and terms.

        There is no DistributedDataParallel: it wants a backward of equal batches in each process, and a search for
        parameters without gradient, while adapters' gradients are small and shares may be empty.
        """
        told = self._run.ranks.gather((own.on_cpu(), self._sum.present()))
        self._sum.add_up([any(flags) for flags in zip(*(present for _, present in told), strict=True)])
        joined = StepSums(has_prior=own.has_prior)
        for sums, _ in told:
            joined.join(sums)
        return joined


@dataclass(slots=True, kw_only=True)
class StepSums:
    """What becomes of a step's losses, added up batch by batch.

    Attributes:
        has_prior: Losses of the subject and of its class are wanted apart.
        losses: Weighted loss of each sample, a tensor (B,) for each batch.
        timesteps: The timestep of each, int64, in the same way.
        terms: Name to unweighted loss, divided by the samples of the whole step.
        prior: Unweighted losses of single samples, the subject's (`instance`) and its class's.
    """

    has_prior: bool
    losses: list[Tensor] = field(default_factory=list)
    timesteps: list[Tensor] = field(default_factory=list)
    terms: dict[str, Tensor] = field(default_factory=dict)
    prior: dict[str, list[Tensor]] = field(default_factory=lambda: {"instance": [], "prior": []})

    def add(self, losses: Tensor, terms: Mapping[str, Tensor], inputs: StepInputs, count: int) -> None:
        """Take in a batch: weighted losses and named terms, each (B,), and the number of samples in the whole step."""
        self.losses.append(losses)
        self.timesteps.append(inputs.timesteps)
        for name, term in terms.items():
            self.terms[name] = self.terms.get(name, term.new_zeros(())) + term.sum() / count
        if self.has_prior:
            each = torch.stack(list(terms.values())).sum(0)
            for own, is_prior in zip(each.unbind(), inputs.is_regularization, strict=True):
                self.prior["prior" if is_prior else "instance"].append(own)

    def join(self, other: StepSums) -> None:
        """Take in what another process added up."""
        self.losses += other.losses
        self.timesteps += other.timesteps
        for name, term in other.terms.items():
            self.terms[name] = self.terms.get(name, torch.zeros_like(term)) + term
        for name, losses in other.prior.items():
            self.prior[name] += losses

    def on_cpu(self) -> StepSums:
        """Give the same in the CPU's memory."""
        return StepSums(
            has_prior=self.has_prior,
            losses=[losses.cpu() for losses in self.losses],
            timesteps=[timesteps.cpu() for timesteps in self.timesteps],
            terms={name: term.cpu() for name, term in self.terms.items()},
            prior={name: [loss.cpu() for loss in losses] for name, losses in self.prior.items()},
        )

    def loss(self, count: int) -> Tensor:
        """Give the weighted loss of the whole step, which has `count` samples."""
        return torch.stack([losses.sum() / count for losses in self.losses]).sum()

    def prior_means(self) -> dict[str, Tensor]:
        """Give the mean unweighted loss of each kind that the step had samples of."""
        return {name: torch.stack(losses).mean() for name, losses in self.prior.items() if losses}
