"""Start a run, or go on with one: folder, lock, plan, caches, loop, file."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdtune.config.dump import dump
from sdtune.errors import SdtuneError, StoppedError
from sdtune.files import sweep_drafts, write_text
from sdtune.train.certification import certify_exports
from sdtune.train.checkpoint import latest_checkpoint
from sdtune.train.device import set_up_torch
from sdtune.train.drawing import draw_missing
from sdtune.train.finish import check_targets, deliver_finished
from sdtune.train.folder import RunFolder, RunLock, remember_last
from sdtune.train.inputs import open_source
from sdtune.train.memory import keep_freed_memory, peak_memory_bytes, return_freed_memory
from sdtune.train.observers import MetricsObserver, Observer, TensorBoardObserver
from sdtune.train.plan import make_plan
from sdtune.train.previews import PreviewObserver, preview_requests
from sdtune.train.run import assemble, open_base, run_folder, unpacked
from sdtune.train.signals import StopRequest
from sdtune.train.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.config.compose import Loaded
    from sdtune.data.missing import MissingImage
    from sdtune.plugins import Registry
    from sdtune.train.checkpoint import Checkpoint
    from sdtune.train.run import Run

logger = logging.getLogger(__name__)


class Screen:
    """What a run says to whoever started it; the default says nothing. The command line has one that prints."""

    def say(self, text: str) -> None:
        """Show a line or a paragraph."""

    def caching(self, what: str, done: int, count: int) -> None:
        """Show how far a cache is filled."""

    def drawing(self, what: str, done: int, count: int) -> None:
        """Show how many pictures are drawn before training."""

    def observers(self) -> Sequence[Observer]:
        """Give observers that show the training."""
        return ()


def start(
    loaded: Loaded,
    registry: Registry,
    screen: Screen,
    *,
    stop_after: int | None = None,
    overwrite: bool = False,
) -> Run:
    """Train a new run to its end.

    Raises:
        SdtuneError: The run cannot start, or ended early; each child says why.
    """
    folder = run_folder(loaded.options)
    folder.check_free(overwrite=overwrite)
    check_targets(loaded.options.output)
    run = assemble(loaded, registry, folder)
    screen.say(make_plan(run).render())
    folder.create(overwrite=overwrite)
    write_text(folder.config, dump(loaded.options, loaded.origins))
    folder.write_facts(_facts(run))
    if missing := run.missing:
        del run  # the base model that draws needs its memory
        run = _draw_first(missing, loaded, registry, screen, folder)
    _train(run, registry, screen, checkpoint=None, stop_after=stop_after)
    return run


def resume(
    loaded: Loaded, registry: Registry, screen: Screen, folder: RunFolder, *, stop_after: int | None = None
) -> None:
    """Go on with a run from its newest whole checkpoint; from the start when it was stopped before the first one.

    Raises:
        SdtuneError: As `start`, or images, captions or model changed, or every checkpoint is damaged.
    """
    if folder.read_facts().get("state") == "done":
        screen.say(f"the run is complete: {folder.path}")
        return
    checkpoint, damaged = latest_checkpoint(folder.checkpoints)
    for line in damaged:
        screen.say(f"passed over a damaged checkpoint: {line}")
    run = assemble(loaded, registry, folder)
    if missing := run.missing:
        del run
        run = _draw_first(missing, loaded, registry, screen, folder)
    if checkpoint is not None:
        screen.say(f"{run.name}: going on after step {checkpoint.position.step} of {run.timetable.steps}")
    _train(run, registry, screen, checkpoint=checkpoint, stop_after=stop_after)


def _draw_first(
    missing: Sequence[MissingImage], loaded: Loaded, registry: Registry, screen: Screen, folder: RunFolder
) -> Run:
    """Draw regularization images that are missing, and assemble the run with them."""
    with RunLock(folder), _log_to(folder), StopRequest() as stop:

        def on_progress(what: str, done: int, count: int) -> None:
            screen.drawing(what, done, count)
            stop.check()

        draw_missing(
            open_base(unpacked(loaded.options), registry), missing, loaded.options.regularization.generate, on_progress
        )
    return_freed_memory()
    return assemble(loaded, registry, folder)


def _train(
    run: Run, registry: Registry, screen: Screen, *, checkpoint: Checkpoint | None, stop_after: int | None
) -> None:
    folder = run.folder
    keep_freed_memory()
    set_up_torch(run.options.train, run.device)
    with RunLock(folder), _log_to(folder), _state_kept(folder), StopRequest() as stop:
        sweep_drafts(folder.path)
        remember_last(folder)
        requests = preview_requests(run)

        def on_progress(what: str, done: int, count: int) -> None:
            screen.caching(what, done, count)
            stop.check()

        prompts = tuple(dict.fromkeys(text for request in requests for text in request.texts()))
        source = open_source(run, preview_texts=prompts, on_progress=on_progress)
        observers = [
            MetricsObserver(folder.metrics),
            *([TensorBoardObserver(folder.tensorboard)] if run.options.log.tensorboard else []),
            *([PreviewObserver(requests=requests)] if requests else []),
            *registry.observers(run),
            *screen.observers(),
        ]
        trainer = Trainer(run, source, observers, stop)
        if checkpoint is not None:
            trainer.restore(checkpoint)
        trainer.train(stop_after=stop_after)
        files = trainer.export()
        delivered = [{"name": file.path.name, "kind": file.kind} for file in files if file.is_delivered]
        folder.write_facts({"files": delivered})
        with trainer.shown_weights():
            certificate = certify_exports(run, files, registry)
    for file in files:
        screen.say(f"saved: {file.path}")
    if certificate is not None:
        screen.say(certificate.render())
        for warning in certificate.warnings():
            screen.say(f"warning: {warning}")
        certificate.raise_if_faulty()
    for text in deliver_finished(run):
        screen.say(text)


def _facts(run: Run) -> dict[str, object]:
    return {
        "name": run.name,
        "method": run.spec.name,
        "kind": run.method.kind,
        "family": run.model.family,
        "base": run.model.source.name,
        "trigger": run.trigger(),
        "steps": run.timetable.steps,
        "step": 0,
        "state": "planned",
    }


@contextmanager
def _state_kept(folder: RunFolder) -> Iterator[None]:
    """Keep `run.json` true: running inside, then done, stopped or failed."""
    folder.write_facts({"state": "running", "error": None, "started_at": time.time()})
    try:
        yield
    except StoppedError:
        folder.write_facts({"state": "stopped"})
        raise
    except BaseException as error:
        exit_code = error.exit_code if isinstance(error, SdtuneError) else 1
        folder.write_facts({"state": "failed", "error": str(error), "exit_code": exit_code})
        logger.info("failed: %s", error)
        raise
    folder.write_facts({"state": "done", "finished_at": time.time(), "peak_memory_bytes": peak_memory_bytes()})


@contextmanager
def _log_to(folder: RunFolder) -> Iterator[None]:
    """Write what sdtune logs into the run folder too."""
    handler = logging.FileHandler(folder.log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root, level = logging.getLogger("sdtune"), logging.getLogger("sdtune").level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
