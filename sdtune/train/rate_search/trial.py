"""A training that is thrown away: to find something out about a run, and nothing else."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from sdtune.config.schema import PreviewOptions
from sdtune.config.train import EmaOptions
from sdtune.config.validation import ValidationOptions
from sdtune.errors import StoppedError
from sdtune.train.machine.device import set_up_torch
from sdtune.train.machine.environment import using_threads
from sdtune.train.machine.memory import keep_freed_memory
from sdtune.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sdtune.config.schema import CoreOptions
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.launch import Launch
    from sdtune.train.run import Run
    from sdtune.train.watching.observers import Observer


def trial_options(options: CoreOptions, steps: int) -> CoreOptions:
    """Give the options of a trial: the run's first steps, no pictures, and the weights themselves in place of averages.

    Args:
        options: The run.
        steps: The most steps; a shorter run stays as short as it is.
    """
    train = options.train
    length = min(steps, train.steps or steps)
    return options.model_copy(
        update={
            "train": train.model_copy(update={"steps": length, "ema": EmaOptions()}),
            "log": options.log.model_copy(update={"every_steps": 1}),
            "preview": PreviewOptions(),
            "watch": options.watch.model_copy(update={"every_steps": None}),  # rates are far off on purpose
        }
    )


def without_validation(options: CoreOptions) -> CoreOptions:
    """Give the options of the same run with all its images trained on."""
    return options.model_copy(update={"validation": ValidationOptions()})


@contextmanager
def computing(run: Run) -> Iterator[None]:
    """Set up threads and memory as the run will have them."""
    keep_freed_memory()
    set_up_torch(run.options.train, run.device)
    with using_threads(run.options.train.threads):
        yield


def train_trial(
    launch: Launch,
    run: Run,
    source: InputSource,
    observers: Sequence[Observer] = (),
    until: Callable[[int, Mapping[str, float]], bool] = lambda *_: False,
) -> None:
    """Train a run without saving, measuring or exporting anything.

    Args:
        launch: Tells of a stop request.
        run: The run; its model is left as trained.
        source: Its inputs.
        observers: What watches it.
        until: Told each step and its rates, answers whether that was the last one.

    Raises:
        StoppedError: A stop was asked for.
        NumericsError: Loss or gradients are not finite.
    """
    trainer = Trainer(replace(run, held_out=None), source, observers, launch.stop, until=until)
    try:
        trainer.train()
    except StoppedError as error:
        raise StoppedError(
            f"stopped after {trainer.step} steps of a trial",
            hint=f"what was found so far: sdtune lr read {run.folder.path}",
        ) from error
