"""From the timetable to the tensors of a step: caches, plans, batches, draws."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdtune.data.ahead import map_ahead
from sdtune.data.batches import BatchBuilder
from sdtune.data.captions.captioner import Captioner
from sdtune.data.index.building import verify_pixels
from sdtune.data.tables.lazy import joined
from sdtune.train.inputs.caches import RunCaches, Wanted
from sdtune.train.machine.advice import encoding_hint
from sdtune.train.machine.memory import memory_told, return_freed_memory
from sdtune.train.step.draws import Drawer
from sdtune.train.step.forward import StepInputs
from sdtune.train.step.objective import cumulated_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from sdtune.data.caches.latents import LatentCache
    from sdtune.data.caches.text import TextCache
    from sdtune.data.index.building import DataIndex
    from sdtune.data.order.epoch import EpochPlan
    from sdtune.data.types import BatchPlan, Visit
    from sdtune.models.base import Conditioning
    from sdtune.train.assembly.timetable import MicroStep
    from sdtune.train.machine.ranks import Ranks
    from sdtune.train.run import Run

    OnProgress = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """What an optimizer step trains on.

    Attributes:
        step: Optimizer step, from 0.
        epoch: Epoch, from 0.
        sample_ids: All its samples, those of other processes too.
        own: What of its micro-batches is this process's share; none of them is empty.
    """

    step: int
    epoch: int
    sample_ids: tuple[str, ...]
    own: tuple[BatchPlan, ...]


def share_batches(batches: Sequence[BatchPlan], ranks: Ranks) -> tuple[BatchPlan, ...]:
    """Give a process's share of a step: neighbours in the row of all visits, so that as few batches as can be are cut.

    The shares' lengths differ by one visit at most; a step of fewer visits than processes leaves some without.
    """
    part = ranks.part(sum(len(batch.visits) for batch in batches))
    shares, start = [], 0
    for batch in batches:
        own = batch.visits[max(part.start - start, 0) : max(part.stop - start, 0)]
        start += len(batch.visits)
        if own:
            shares.append(replace(batch, visits=own))
    return tuple(shares)


class InputSource:
    """Inputs of any micro-step of a run, a pure function of its place in the timetable.

    Attributes:
        drawer: Makes the random draws.
        epoch: Gives the plan of an epoch, from 0; of the last two it keeps them.
        latents: Filled cache; None: images are encoded each time.
        texts: Filled cache; None: captions are encoded each time.
    """

    def __init__(self, run: Run, *, latents: LatentCache | None, texts: TextCache | None) -> None:
        train = run.options.train
        self.drawer = Drawer(
            seed=train.seed,
            min_timestep=train.min_timestep,
            max_timestep=train.max_timestep,
            latent_sampling=train.latent_sampling,
            noise=run.options.noise,
            cumulated_shares=cumulated_shares(run.options, len(run.model.schedule)),
        )
        self._run = run
        self.latents = latents
        self.texts = texts
        self._builder = make_builder(run, latents)
        self.epoch = lru_cache(maxsize=2)(self._plan_epoch)  # what is prepared ahead may be an epoch ahead

    def plan(self, micro: MicroStep) -> tuple[int, BatchPlan]:
        """Give epoch and batch of a micro-step."""
        return micro.epoch, self.epoch(micro.epoch)[micro.batch]

    def plan_step(self, step: int) -> StepPlan:
        """Plan optimizer step `step`, counted from 0."""
        planned = [self.plan(micro) for micro in self._run.timetable.micro_steps(step)]
        batches = [batch for _, batch in planned]
        return StepPlan(
            step=step,
            epoch=planned[0][0],
            sample_ids=tuple(visit.sample_id for batch in batches for visit in batch.visits),
            own=share_batches(batches, self._run.ranks),
        )

    def feed(self, first: int) -> Generator[StepInputs]:
        """Give the inputs of each of this process's batches from optimizer step `first` on, in order.

        They are prepared ahead in threads, as `data.workers` says; closing the generator ends the threads.
        """
        steps = (self.plan_step(step) for step in range(first, self._run.timetable.steps))
        jobs = ((step.epoch, batch, step.step) for step in steps for batch in step.own)
        data, device = self._run.options.data, self._run.device
        is_cuda = device.type == "cuda"
        own_gpu = torch.cuda.current_device() if is_cuda else None
        prepared = map_ahead(
            lambda job: self._pinned(*job) if is_cuda else self.prepare(*job),
            jobs,
            workers=data.workers,
            ahead=data.prefetch,
            initialise=None if own_gpu is None else lambda: torch.cuda.set_device(own_gpu),
        )
        with closing(prepared):
            for inputs in prepared:
                yield _map_tensors(inputs, lambda tensor: tensor.to(device, non_blocking=True))

    def caption(self, visit: Visit, epoch: int, step: int) -> str:
        """Give the caption by which a visit is trained in optimizer step `step`, counted from 0."""
        return self._builder.caption(visit, epoch, step)

    def images_before(self, step: int) -> int:
        """Count samples in the first `step` optimizer steps."""
        table = self._run.timetable
        epochs = table.epochs_done(step)
        started = range(epochs * table.steps_per_epoch, step)
        micro_steps = [micro for number in started for micro in table.micro_steps(number)]
        rest = sum(int(self.epoch(micro.epoch).lengths[micro.batch]) for micro in micro_steps)
        return epochs * self._run.order.counts.total() + rest

    def inputs(self, epoch: int, plan: BatchPlan, step: int = 0) -> StepInputs:
        """Build everything a forward needs, on the device."""
        return _map_tensors(self.prepare(epoch, plan, step), lambda tensor: tensor.to(self._run.device))

    def prepare(self, epoch: int, plan: BatchPlan, step: int = 0) -> StepInputs:
        """Build everything a forward needs, in memory; may be called in several threads at once."""
        batch = self._builder.build(plan, epoch, step)
        factor = self._run.model.latent_factor
        shape = (self._run.model.latent_channels, plan.bucket.height // factor, plan.bucket.width // factor)
        draws = self.drawer.draw(epoch, batch.sample_ids, shape)
        return StepInputs(
            pixels=batch.pixels,
            mean=batch.mean,
            std=batch.std,
            posterior_noise=draws.posterior_noise,
            noise=draws.noise,
            timesteps=draws.timesteps,
            captions=batch.captions,
            cond=self._conditioning(batch.captions),
            weights=batch.weights,
            sizes=batch.sizes,
            is_regularization=batch.is_regularization,
            mask=batch.mask,
            offset=draws.offset,
            offset_strength=draws.offset_strength,
            perturbation=draws.perturbation,
        )

    def _conditioning(self, captions: tuple[str, ...]) -> Conditioning | None:
        return None if self.texts is None else self.texts.get(captions)

    def _pinned(self, epoch: int, plan: BatchPlan, step: int) -> StepInputs:
        """Prepare in memory that a GPU reads on its own."""
        return _map_tensors(self.prepare(epoch, plan, step), lambda tensor: tensor.pin_memory())

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        return self._run.order.plan(self._run.options.train.seed, epoch)


def make_builder(run: Run, latents: LatentCache | None) -> BatchBuilder:
    """Build the run's builder of batches."""
    return BatchBuilder(
        run.index,
        run.placements,
        run.options.data,
        run.options.train.seed,
        latents=latents,
        epochs=run.timetable.epochs,
        captioner=make_captioner(run, run.index),
        latent_factor=run.model.latent_factor,
    )


def make_captioner(run: Run, index: DataIndex, *, is_calm: bool = False) -> Captioner:
    """Build what gives captions to the visits of a data set of the run.

    Args:
        run: An assembled run.
        index: Its data set, or that of held-out images.
        is_calm: Captions are whole, as for measurements.
    """
    return Captioner(
        index,
        run.options.train.seed,
        method_captions=run.method.captions,
        steps=run.timetable.steps,
        keeps_brackets=run.options.model.weighted_words,
        is_calm=is_calm,
    )


def make_held_out_builder(run: Run, latents: LatentCache | None) -> BatchBuilder | None:
    """Build the builder of held-out batches, in which nothing is drawn; None when nothing is held out."""
    if run.held_out is None:
        return None
    calm = {"flip": False, "color": False, "crop": "center"}
    index = run.held_out.index
    subsets = {own.name: replace(own, options=own.options.model_copy(update=calm)) for own in index.subsets}
    return BatchBuilder(
        replace(index, subsets=tuple(subsets.values())),
        run.held_out.placements,
        run.options.data,
        run.options.train.seed,
        latents=latents,
        captioner=make_captioner(run, run.held_out.index, is_calm=True),
        latent_factor=run.model.latent_factor,
    )


def open_source(run: Run, *, preview_texts: tuple[str, ...], on_progress: OnProgress) -> InputSource:
    """Fill the caches, drop what is no longer needed from memory, and give the source of inputs.

    Of several processes each fills its share of the caches on disk, and all of those in memory.

    Args:
        run: An assembled run.
        preview_texts: Prompts that previews will ask for; cached with the captions.
        on_progress: Called with what is cached, how many are done, and of how many.

    Raises:
        DataError: An image is damaged, or its latents are not finite.
        PlatformError: The cache cannot be written.
        OutOfMemoryError: Memory is used up.
        StoppedError: From `on_progress`.
    """
    with memory_told(lambda: "while captions and images are encoded", lambda: encoding_hint(run)):
        caches = RunCaches(run, wanted_entries(run, preview_texts))
        caches.fill(on_progress)
        if caches.latents is None:
            others = run.held_out.index.images if run.held_out else ()
            verify_pixels(run.ranks.share(joined(run.index.images, others)))
    texts, latents = caches.texts, caches.latents
    if texts is not None:
        run.model.unload("text_encoder")
    else:
        run.model.load("text_encoder")
    if latents is None:
        run.model.load("vae")
    else:
        run.model.unload("vae")
    return_freed_memory()
    run.ranks.wait()  # what the others have put into the caches
    run.texts = texts
    return InputSource(run, latents=latents, texts=texts)


def wanted_entries(run: Run, preview_texts: tuple[str, ...]) -> Wanted:
    """List what a run asks of its caches; captions that are drawn anew at each visit, or encoded anew, are not cached.

    Args:
        run: An assembled run.
        preview_texts: Prompts that previews will ask for; cached with the captions.
    """
    builder, held_out = make_builder(run, None), make_held_out_builder(run, None)
    captions = None if run.trains_text else builder.fixed_captions()
    if captions is not None:
        others = [held_out.caption(visit, 0) for visit in run.held_out.visits()] if held_out and run.held_out else []
        captions = tuple(dict.fromkeys((*captions, *others, *preview_texts)))
    items = (builder.latent_items(), *([held_out.latent_items()] if held_out else []))
    return Wanted(captions=captions, latents=joined(*items))


def _map_tensors(inputs: StepInputs, act: Callable[[Tensor], Tensor]) -> StepInputs:
    """Put `act(tensor)` in the place of every tensor."""
    mapped: StepInputs = _map(inputs, act)
    return mapped


def _map(value: Any, act: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return act(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: _map(getattr(value, field.name), act) for field in fields(value)})
