"""From the timetable to the tensors of a step: plans, batches, cached text, draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from sdtune.train.step import StepInputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from sdtune.data.batch import BatchBuilder
    from sdtune.data.types import BatchPlan
    from sdtune.train.draws import Drawer
    from sdtune.train.timetable import MicroStep, Timetable


class InputSource:
    """Inputs of any micro-step, a pure function of its place in the timetable.

    Attributes:
        drawer: Makes the random draws.
    """

    def __init__(
        self,
        *,
        timetable: Timetable,
        plan_epoch: Callable[[int], tuple[BatchPlan, ...]],
        builder: BatchBuilder,
        drawer: Drawer,
        hidden: Mapping[str, Tensor] | None,
        latent_shape: Callable[[BatchPlan], tuple[int, int, int]],
        device: torch.device,
    ) -> None:
        self.drawer = drawer
        self._timetable = timetable
        self._plan_epoch = plan_epoch
        self._builder = builder
        self._hidden = hidden
        self._latent_shape = latent_shape
        self._device = device
        self._planned: tuple[int, tuple[BatchPlan, ...]] = (-1, ())

    def plan(self, micro: MicroStep) -> tuple[int, BatchPlan]:
        """Give epoch and batch of a micro-step."""
        if self._planned[0] != micro.epoch:
            self._planned = (micro.epoch, self._plan_epoch(micro.epoch))
        return micro.epoch, self._planned[1][micro.batch]

    def images_before(self, step: int) -> int:
        """Count samples in the first `step` optimizer steps."""
        return sum(len(self.plan(micro)[1].visits) for k in range(step) for micro in self._timetable.micro_steps(k))

    def inputs(self, epoch: int, plan: BatchPlan) -> StepInputs:
        """Build everything a forward needs, on the device."""
        batch = self._builder.build(plan, epoch)
        draws = self.drawer.draw(epoch, batch.sample_ids, self._latent_shape(plan))
        hidden = None if self._hidden is None else torch.stack([self._hidden[caption] for caption in batch.captions])
        return StepInputs(
            pixels=self._to_device(batch.pixels),
            mean=self._to_device(batch.mean),
            std=self._to_device(batch.std),
            posterior_noise=draws.posterior_noise.to(self._device),
            noise=draws.noise.to(self._device),
            timesteps=draws.timesteps.to(self._device),
            captions=batch.captions,
            hidden=self._to_device(hidden),
            weights=batch.weights.to(self._device),
        )

    def _to_device(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(self._device, non_blocking=True)
