"""The dry step: the largest batch once through forward and backward before the first step, leaving no trace."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import torch

from sdtune.train.machine.advice import training_hint
from sdtune.train.machine.memory import memory_told, peak_memory_bytes

if TYPE_CHECKING:
    from sdtune.data.types import BatchPlan
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.run import Run
    from sdtune.train.step.gradients import Gradients
    from sdtune.train.update.updating import Update

logger = logging.getLogger(__name__)


def rehearses(run: Run) -> bool:
    """Tell whether the run has a dry step: as the options say, else on a GPU."""
    wanted = run.options.train.dry_step
    return run.device.type == "cuda" if wanted == "auto" else wanted


def rehearse(run: Run, source: InputSource, gradients: Gradients, update: Update, step: int) -> None:
    """Do the largest batch of the epoch of step `step`, counted from 0, and change nothing.

    The optimizer does no step, since not every one could be put back to the last bit; memory for its state is reserved
    instead, as far as its size is known. Gradients are computed without being given to the parameters.

    Raises:
        OutOfMemoryError: There is not enough memory for it.
    """
    started = time.perf_counter()
    epoch, batch = largest_batch(run, source, step)
    run.method.before_step(run.model, step + 1)
    devices = [run.device] if run.device.type == "cuda" else []
    text = describe_batch(batch)
    with (
        torch.random.fork_rng(devices),
        memory_told(lambda: f"by the largest batch, {text}, tried before step {step + 1}", lambda: training_hint(run)),
    ):
        reserved = torch.empty(update.pending_bytes if devices else 0, dtype=torch.uint8, device=run.device)
        gradients.rehearse(epoch, batch)
        del reserved
    peak = torch.cuda.max_memory_allocated(run.device) if devices else peak_memory_bytes()
    seconds = time.perf_counter() - started
    logger.info("dry step with %s: %.1f s, memory up to %.1f GiB", text, seconds, peak / 2**30)


def largest_batch(run: Run, source: InputSource, step: int) -> tuple[int, BatchPlan]:
    """Give epoch and batch with most pixels in the epoch of step `step`, counted from 0; of equals the first."""
    epoch = run.timetable.micro_steps(step)[0].epoch
    return epoch, source.epoch(epoch).largest


def describe_batch(batch: BatchPlan) -> str:
    """Say how large a batch is, e.g. `4 images of 768x512`."""
    count = len(batch.visits)
    return f"{count} {'image' if count == 1 else 'images'} of {batch.bucket}"


def describe_step(run: Run, source: InputSource, step: int) -> str:
    """Say how large the batches of step `step`, counted from 0, are at most."""
    batches = [source.plan(micro)[1] for micro in run.timetable.micro_steps(step)]
    largest = max(batches, key=lambda batch: batch.bucket.width * batch.bucket.height * len(batch.visits))
    return f"with {describe_batch(largest)}"
