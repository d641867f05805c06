"""The loss of held-out images over a grid that never changes: image, noise and timestep are the same each time."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.data.caches.latents import encode_each
from sdtune.data.types import BatchPlan
from sdtune.diffusion.losses import sample_losses
from sdtune.diffusion.timesteps import midpoints
from sdtune.errors import ConfigError
from sdtune.models.base import join_conditionings
from sdtune.models.modes import evaluating
from sdtune.randomness import derive_generator
from sdtune.train.inputs.source import make_held_out_builder
from sdtune.train.step.forward import StepInputs, TrainStep
from sdtune.train.step.objective import make_objective

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.data.types import Batch
    from sdtune.models.base import Conditioning
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationResult:
    """What one measurement gave.

    Attributes:
        images: Name of each image to its loss, the mean over its timesteps and noises.
        bins: Loss of each part of the timestep range, the mean over images and noises, from little noise to much.
        objective: Mean of what the run itself calls its loss, over the same grid; None: it is the same.
    """

    images: Mapping[str, float]
    bins: tuple[float, ...]
    objective: float | None = None

    @property
    def loss(self) -> float:
        """Mean over all images: the squared error of the model's answer."""
        return statistics.fmean(self.images.values())

    @property
    def standard_error(self) -> float:
        """How far the mean of other images of this kind would be; infinity for a single image."""
        return _standard_error(list(self.images.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How two measurements differ, image by image: what is hard or easy about an image falls out.

    Attributes:
        mean: The first loss minus the second.
        standard_error: Of the mean over images; infinity for a single image.
    """

    mean: float
    standard_error: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance: twice the standard error at least."""
        return abs(self.mean) > 2 * self.standard_error


def compare(first: ValidationResult, second: ValidationResult) -> Difference:
    """Compare two measurements of the same images."""
    pairs = [first.images[name] - second.images[name] for name in first.images]
    return Difference(mean=statistics.fmean(pairs), standard_error=_standard_error(pairs))


class Validator:
    """Measure the held-out images of a run with the weights its model has now.

    The loss is the plain squared error with noise as the model was made for, whatever the run is trained towards, so
    that runs can be compared; a picture's mask counts. Latents are the VAE's means, captions are whole, nothing is
    mirrored. Noise is a function of the run's seed, the image's content and the number of the draw. The global random
    state is not touched.

    Raises:
        ConfigError: Nothing is held out.
    """

    def __init__(self, run: Run, source: InputSource) -> None:
        builder = make_held_out_builder(run, source.latents)
        if builder is None or run.held_out is None:
            raise ConfigError("no images are held out", hint="give validation.split, e.g. 0.1, or validation.path")
        self._run = run
        self._source = source
        self._builder = builder
        self._held_out = run.held_out
        self._step = TrainStep(run.model, run.method, make_objective(run.options, run.model))
        train, options = run.options.train, run.options.validation
        self._timesteps = midpoints(train.min_timestep, train.max_timestep, options.timesteps * options.draws)

    @property
    def count(self) -> int:
        """Images that are measured."""
        return len(self._held_out.index.images)

    def measure(self, check: Callable[[], None] | None = None) -> ValidationResult:
        """Measure all images; of several processes, each measures its share.

        Args:
            check: Called before each image; what it raises ends the measurement.
        """
        with evaluating(self._step):
            own = [self._losses(number, check) for number in self._run.ranks.part(self.count)]
        measured = [losses for share in self._run.ranks.gather(own) for losses in share]
        table, objective = torch.stack(measured, dim=1).unbind()  # (N, timesteps)
        names = list(self._held_out.index.images.names)
        bins = table.reshape(self.count, self._run.options.validation.timesteps, -1).mean((0, 2))
        return ValidationResult(
            images=dict(zip(names, table.mean(1).tolist(), strict=True)),
            bins=tuple(bins.tolist()),
            objective=None if torch.equal(table, objective) else objective.mean().item(),
        )

    def _losses(self, number: int, check: Callable[[], None] | None) -> Tensor:
        """Give an image's squared errors and the run's own losses, (2, timesteps) float64 on the CPU."""
        if check is not None:
            check()
        return torch.cat([self._losses_of(inputs) for inputs in self._inputs(number)], dim=1)

    def _losses_of(self, inputs: StepInputs) -> Tensor:
        prediction, target = self._step.predict(inputs)
        terms = self._step.loss_terms(inputs, prediction, target)
        plain = sample_losses(prediction, target, mask=inputs.mask)
        return torch.stack([plain, torch.stack(list(terms.values())).sum(0)]).double().cpu()

    def _inputs(self, number: int) -> Iterator[StepInputs]:
        """Give the inputs of an image at all its timesteps, a batch at a time."""
        visit, bucket = self._held_out.visits()[number], self._held_out.placements[number].bucket
        batch = self._builder.build(BatchPlan(bucket=bucket, visits=(visit,)), 0)
        mean, cond = self._latents(batch), self._conditioning(batch.captions)
        size = self._run.options.train.batch_size
        for start in range(0, len(self._timesteps), size):
            draws = range(start, min(start + size, len(self._timesteps)))
            yield self._repeated(batch, mean, cond, draws)

    def _repeated(self, batch: Batch, mean: Tensor, cond: Conditioning, draws: Sequence[int]) -> StepInputs:
        """Build the batch of one image at several timesteps."""
        count, device = len(draws), self._run.device
        seed, digest = self._run.options.train.seed, batch.sample_ids[0]
        generators = (derive_generator(seed, "validation", digest, number) for number in draws)
        noise = [torch.randn(mean.shape[1:], generator=generator) for generator in generators]
        return StepInputs(
            pixels=None,
            mean=mean.expand(count, -1, -1, -1),
            std=torch.zeros_like(mean),
            posterior_noise=torch.zeros_like(mean),
            noise=torch.stack(noise).to(device),
            timesteps=torch.tensor([self._timesteps[number] for number in draws], device=device),
            captions=batch.captions * count,
            cond=join_conditionings([cond] * count),
            weights=torch.ones(count, device=device),
            sizes=batch.sizes.to(device).expand(count, -1),
            mask=None if batch.mask is None else batch.mask.to(device).expand(count, -1, -1, -1),
        )

    def _latents(self, batch: Batch) -> Tensor:
        if batch.mean is not None:
            return batch.mean.to(self._run.device)
        assert batch.pixels is not None
        return encode_each(self._run.model.encode_images, batch.pixels.to(self._run.device)).mean

    def _conditioning(self, captions: tuple[str, ...]) -> Conditioning:
        if self._source.texts is None:
            return self._run.model.encode_prompt(captions)
        return self._source.texts.get(captions).to(self._run.device)


def _standard_error(values: Sequence[float]) -> float:
    count, mean = len(values), statistics.fmean(values)
    if count < 2:
        return math.inf
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count)
