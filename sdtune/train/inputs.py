"""From the timetable to the tensors of a step: caches, plans, batches, draws."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from sdtune.data.batches import BatchBuilder
from sdtune.data.cache import LatentCache
from sdtune.data.index import verify_pixels
from sdtune.data.plan import plan_epoch
from sdtune.data.tensor_store import open_store
from sdtune.data.text_cache import TextCache
from sdtune.train.draws import Drawer
from sdtune.train.memory import return_freed_memory
from sdtune.train.objective import cumulated_shares
from sdtune.train.step import StepInputs

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from sdtune.data.types import BatchPlan
    from sdtune.models.base import Conditioning
    from sdtune.train.run import Run
    from sdtune.train.timetable import MicroStep

    OnProgress = Callable[[str, int, int], None]

logger = logging.getLogger(__name__)


class InputSource:
    """Inputs of any micro-step of a run, a pure function of its place in the timetable.

    Attributes:
        drawer: Makes the random draws.
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
        self._texts = texts
        self._builder = make_builder(run, latents)
        self._planned: tuple[int, tuple[BatchPlan, ...]] = (-1, ())

    def plan(self, micro: MicroStep) -> tuple[int, BatchPlan]:
        """Give epoch and batch of a micro-step."""
        if self._planned[0] != micro.epoch:
            run, train = self._run, self._run.options.train
            batches = plan_epoch(
                train.seed, micro.epoch, run.index.images, run.placements, train.batch_size, run.rotations
            )
            self._planned = (micro.epoch, batches)
        return micro.epoch, self._planned[1][micro.batch]

    def images_before(self, step: int) -> int:
        """Count samples in the first `step` optimizer steps."""
        table = self._run.timetable
        epochs = table.epochs_done(step)
        started = range(epochs * table.steps_per_epoch, step)
        rest = sum(len(self.plan(micro)[1].visits) for k in started for micro in table.micro_steps(k))
        return epochs * sum(self._run.bucket_counts().values()) + rest

    def inputs(self, epoch: int, plan: BatchPlan) -> StepInputs:
        """Build everything a forward needs, on the device."""
        batch = self._builder.build(plan, epoch)
        factor, device = self._run.model.latent_factor, self._run.device
        shape = (self._run.model.latent_channels, plan.bucket.height // factor, plan.bucket.width // factor)
        draws = self.drawer.draw(epoch, batch.sample_ids, shape)
        return StepInputs(
            pixels=_move(batch.pixels, device),
            mean=_move(batch.mean, device),
            std=_move(batch.std, device),
            posterior_noise=draws.posterior_noise.to(device),
            noise=draws.noise.to(device),
            timesteps=draws.timesteps.to(device),
            captions=batch.captions,
            cond=self._conditioning(batch.captions),
            weights=batch.weights.to(device),
            sizes=batch.sizes.to(device),
            is_regularization=batch.is_regularization,
            mask=_move(batch.mask, device),
            offset=_move(draws.offset, device),
            offset_strength=_move(draws.offset_strength, device),
            perturbation=_move(draws.perturbation, device),
        )

    def _conditioning(self, captions: tuple[str, ...]) -> Conditioning | None:
        return None if self._texts is None else self._texts.get(captions).to(self._run.device)


def make_builder(run: Run, latents: LatentCache | None) -> BatchBuilder:
    """Build the run's builder of batches."""
    return BatchBuilder(
        run.index,
        run.placements,
        run.options.data,
        run.options.train.seed,
        latents=latents,
        epochs=run.timetable.epochs,
        method_captions=run.method.captions,
        latent_factor=run.model.latent_factor,
    )


def open_source(run: Run, *, preview_texts: tuple[str, ...], on_progress: OnProgress) -> InputSource:
    """Fill the caches, drop what is no longer needed from memory, and give the source of inputs.

    Args:
        run: An assembled run.
        preview_texts: Prompts that previews will ask for; cached with the captions.
        on_progress: Called with what is cached, how many are done, and of how many.

    Raises:
        DataError: An image is damaged, or its latents are not finite.
        PlatformError: The cache cannot be written.
        StoppedError: From `on_progress`.
    """
    texts = _fill_texts(run, preview_texts, on_progress)
    latents = _fill_latents(run, on_progress)
    if texts is not None:
        run.model.unload("text_encoder")
    else:
        run.model.load("text_encoder")
    if latents is None:
        run.model.load("vae")
    else:
        run.model.unload("vae")
    return_freed_memory()
    run.texts = texts
    return InputSource(run, latents=latents, texts=texts)


def _fill_texts(run: Run, preview_texts: tuple[str, ...], on_progress: OnProgress) -> TextCache | None:
    options = run.options.data.cache
    captions = make_builder(run, None).fixed_captions()
    if options.text == "off" or run.trains_text or captions is None:
        return None
    cache = TextCache(open_store(options.text, "text", options), run.model.text_digest)
    missing = cache.missing((*captions, *preview_texts))
    if missing:
        run.model.load("text_encoder")
        cache.fill(missing, run.model.encode_prompt, on_progress=lambda done, count: on_progress("text", done, count))
    return cache


def _fill_latents(run: Run, on_progress: OnProgress) -> LatentCache | None:
    options = run.options.data.cache
    if options.latents == "off":
        verify_pixels(run.index.images)
        return None
    cache = LatentCache(
        open_store(options.latents, "latents", options),
        vae_digest=run.model.part_digest("vae"),
        dtype=run.model.dtype_of("vae"),
        alpha_color=run.options.data.alpha_color,
    )
    missing = cache.missing(make_builder(run, None).latent_items())
    if missing:
        run.model.load("vae")
        cache.fill(
            missing,
            lambda pixels: run.model.encode_images(pixels.to(run.device)),
            batch_size=options.vae_batch_size,
            on_progress=lambda done, count: on_progress("latents", done, count),
        )
    return cache


def _move(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device, non_blocking=True)
