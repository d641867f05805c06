"""Start a run, or go on with one: folder, lock, plan, caches, loop, file."""

from __future__ import annotations

import logging
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.config.dump import dump
from sdtune.errors import PlatformError, SdtuneError, StoppedError
from sdtune.files import sweep_drafts, write_text
from sdtune.train.assembly.assembling import assemble, open_base, unpacked
from sdtune.train.assembly.drawing import draw_missing
from sdtune.train.certification import Certifier
from sdtune.train.finish import check_targets, deliver_finished
from sdtune.train.inputs.schedule_file import write_schedule
from sdtune.train.inputs.source import open_source
from sdtune.train.machine.clock import Clock
from sdtune.train.machine.device import set_up_torch
from sdtune.train.machine.environment import using_threads
from sdtune.train.machine.memory import keep_freed_memory, return_freed_memory
from sdtune.train.machine.ranks import joined_ranks
from sdtune.train.machine.signals import StopRequest
from sdtune.train.needs.forecast import report_memory
from sdtune.train.planning.fitting import prepare
from sdtune.train.planning.lookahead import look_ahead
from sdtune.train.planning.plan import make_plan
from sdtune.train.planning.preflight import check_files
from sdtune.train.run import run_folder
from sdtune.train.saving.folder import RunFolder, remember_last
from sdtune.train.saving.joint import Joint
from sdtune.train.saving.lock import RunLock
from sdtune.train.saving.runlog import log_to
from sdtune.train.space import check_space
from sdtune.train.trainer import Trainer
from sdtune.train.watching.observers import MetricsObserver, Observer, TensorBoardObserver
from sdtune.train.watching.previews import PreviewObserver, preview_requests
from sdtune.train.watching.step_times import StepTimeObserver

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sdtune.config.compose import Loaded
    from sdtune.data.index.missing import MissingImage
    from sdtune.plugins import Registry
    from sdtune.sampling.request import PictureRequest
    from sdtune.train.inputs.source import InputSource
    from sdtune.train.machine.ranks import Ranks
    from sdtune.train.run import Run
    from sdtune.train.saving.checkpoint import Checkpoint
    from sdtune.train.saving.resume import Resumption

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
    fit_bytes: int | None = None,
) -> Run:
    """Train a new run to its end, in `fit_bytes` of memory where they are given.

    Raises:
        SdtuneError: The run cannot start, or ended early; each child says why.
    """
    with launched(registry, screen, stop_after) as launch:
        return launch.start(loaded, overwrite=overwrite, fit_bytes=fit_bytes)


def resume(
    resumption: Resumption,
    registry: Registry,
    screen: Screen,
    *,
    stop_after: int | None = None,
    is_dry: bool = False,
) -> None:
    """Go on with a run from a checkpoint; from the start when it was stopped before the first one.

    Args:
        resumption: The run, and its options from now on.
        registry: Where methods and models are looked up.
        screen: What tells the user.
        stop_after: Save and stop after so many more steps.
        is_dry: Tell how the run would go on, and change nothing.

    Raises:
        SdtuneError: As `start`, or something does not fit the checkpoint, or no checkpoint is whole.
    """
    with launched(registry, screen, stop_after) as launch:
        if resumption.is_complete:
            resumption.check_complete()
            launch.screen.say(f"the run is complete, nothing is left to train: {resumption.folder.path}")
        elif is_dry:
            launch.tell(resumption)
        else:
            launch.resume(resumption)


@contextmanager
def launched(registry: Registry, screen: Screen, stop_after: int | None) -> Iterator[Launch]:
    """Join the other processes, and catch signals; only the first process speaks."""
    with joined_ranks() as ranks, StopRequest(is_patient=ranks.size > 1) as stop:
        yield Launch(
            registry=registry,
            screen=screen if ranks.is_first else Screen(),
            ranks=ranks,
            stop=stop,
            stop_after=stop_after,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A start of a run, in one of its processes: what all of its phases need."""

    registry: Registry
    screen: Screen
    ranks: Ranks
    stop: StopRequest
    stop_after: int | None

    def start(self, loaded: Loaded, *, overwrite: bool, fit_bytes: int | None) -> Run:
        """Begin a run."""
        folder = run_folder(loaded.options)
        if self.ranks.is_first:
            folder.check_free(overwrite=overwrite)
            check_targets(loaded.options.output)
        self.ranks.wait()
        loaded, run = prepare(loaded, self.registry, folder, self.ranks, fit_bytes)
        self.ranks.wait()  # until all have seen the same images, none draws any
        self.screen.say(make_plan(run).render())
        if self.ranks.is_first:
            check_files(run)
            check_space(run)
            folder.create(overwrite=overwrite)
        with self.held(folder):
            if self.ranks.is_first:
                write_text(folder.config, dump(loaded.options, loaded.origins), overwrite=True)
                folder.write_facts(run_facts(run))
            if missing := run.missing:
                forecast = run.forecast
                del run  # the base model that draws needs its memory
                run = self.draw_first(missing, loaded, folder)
                run.forecast = forecast
            self._train(run, joint=None)
        return run

    def tell(self, resumption: Resumption) -> None:
        """Say how a run would go on."""
        checkpoint, damaged = resumption.read_checkpoint(renames=False)
        run = self.assemble(resumption.loaded, resumption.folder)
        self._describe(Joint(resumption=resumption, run=run, checkpoint=checkpoint), damaged)

    def resume(self, resumption: Resumption) -> None:
        """Go on with a run."""
        loaded, folder = resumption.loaded, resumption.folder
        if self.ranks.is_first:
            check_targets(loaded.options.output)
        with self.held(folder):
            checkpoint, damaged = self._read_checkpoint(resumption)
            run = self.assemble(loaded, folder)
            if missing := run.missing:
                del run
                run = self.draw_first(missing, loaded, folder)
            joint = Joint(resumption=resumption, run=run, checkpoint=checkpoint)
            self._describe(joint, damaged)
            if self.ranks.is_first:
                run.preflight = look_ahead(run, self.registry)
                check_files(run)
                check_space(run)
            self._train(run, joint=joint)

    def _read_checkpoint(self, resumption: Resumption) -> tuple[Checkpoint | None, list[str]]:
        """Read the checkpoint in each process, in the first one first: it renames damaged ones."""
        if not self.ranks.is_first:
            self.ranks.wait()
        found = resumption.read_checkpoint(renames=self.ranks.is_first)
        if self.ranks.is_first:
            self.ranks.wait()
        return found

    def _describe(self, joint: Joint, damaged: Sequence[str]) -> None:
        for line in damaged:
            self.screen.say(f"passed over a damaged checkpoint: {line}")
        joint.check()
        for line in joint.describe():
            self.screen.say(line)

    def assemble(self, loaded: Loaded, folder: RunFolder) -> Run:
        """Assemble a run in each process."""
        run = assemble(loaded, self.registry, folder, self.ranks)
        self.ranks.wait()  # until all have seen the same images, none draws any
        return run

    def draw_first(self, missing: Sequence[MissingImage], loaded: Loaded, folder: RunFolder) -> Run:
        """Draw regularization images that are missing, each process its share, and assemble the run with them."""

        def on_progress(what: str, done: int, count: int) -> None:
            self.screen.drawing(what, done, count)
            self.stop.check(folder.path)

        with self.state_kept(folder):
            self.stop.check(folder.path)
            if own := self.ranks.share(missing):
                base = open_base(unpacked(loaded.options), self.registry)
                draw_missing(base, own, loaded.options.regularization.generate, on_progress)
                del base
            self.ranks.wait()
        return_freed_memory()
        return self.assemble(loaded, folder)

    def _train(self, run: Run, *, joint: Joint | None) -> None:
        keep_freed_memory()
        set_up_torch(run.options.train, run.device)
        certifier = Certifier(self.registry, self.screen.say)
        with self.state_kept(run.folder), using_threads(run.options.train.threads):
            trainer = self._trained(run, joint, certifier)
            if not self.ranks.is_first:
                return
            files = trainer.export()
            delivered = [{"name": file.path.name, "kind": file.kind} for file in files if file.is_delivered]
            run.folder.write_facts({"files": delivered})
            report_memory(run)
        for text in (*(f"saved: {file.path}" for file in files), *trainer.verdict()):
            self.screen.say(text)
        for certificate in certifier.final:
            for text in (certificate.render(), *(f"warning: {warning}" for warning in certificate.warnings())):
                self.screen.say(text)
        if not any(certificate.faults() for certificate in certifier.final):
            for text in deliver_finished(run):
                self.screen.say(text)
        certifier.raise_if_faulty(run)

    def _trained(self, run: Run, joint: Joint | None, certifier: Certifier) -> Trainer:
        """Fill the caches and train."""
        folder = run.folder
        self.stop.check(folder.path)
        if self.ranks.is_first:
            folder.check_logs(tensorboard=run.options.log.tensorboard)
            remember_last(folder)
        requests = preview_requests(run)
        source = self.open_source(run, requests)
        observers = _observers(run, self.registry, self.screen, requests) if self.ranks.is_first else ()
        trainer = Trainer(run, source, [*observers, certifier], self.stop)
        if joint is not None:
            joint.restore(trainer)
            for line in joint.record() if self.ranks.is_first else ():
                self.screen.say(line)
        if run.options.data.write_schedule and self.ranks.is_first:
            path = write_schedule(run, source, first=trainer.step, on_step=lambda: self.stop.check(folder.path))
            self.screen.say(f"schedule: {path}")
        trainer.train(stop_after=self.stop_after)
        return trainer

    def open_source(self, run: Run, requests: Sequence[PictureRequest] = ()) -> InputSource:
        """Fill the caches, and give the source of the run's inputs."""

        def on_progress(what: str, done: int, count: int) -> None:
            self.screen.caching(what, done, count)
            self.stop.check(run.folder.path)

        prompts = tuple(dict.fromkeys(text for request in requests for text in request.texts()))
        return open_source(run, preview_texts=prompts, on_progress=on_progress)

    @contextmanager
    def held(self, folder: RunFolder) -> Iterator[None]:
        """Keep other programs away, log into the folder, and clear what a killed process left there.

        Of several processes, the first does.
        """
        if not self.ranks.is_first:
            self.ranks.wait()
            yield
            return
        with RunLock(folder.path) as lock, log_to(folder.log):
            if lock.left_by:
                logger.info("taken over from %s, which ended without letting go", lock.left_by)
            sweep_drafts(folder.path, is_alone=True)
            self.ranks.wait()
            yield

    @contextmanager
    def state_kept(self, folder: RunFolder) -> Iterator[None]:
        """Keep `run.json` true: running inside, then done, stopped or failed; of several processes, the first does."""
        if not self.ranks.is_first:
            yield
            return
        clock = Clock()
        facts = {"state": "running", "error": None, "started_at": clock.started_at, "world_size": self.ranks.size}
        folder.write_facts(facts)
        try:
            yield
        except (StoppedError, KeyboardInterrupt):
            _write_end(folder, {"state": "stopped"})
            raise
        except BaseException as error:
            exit_code = error.exit_code if isinstance(error, SdtuneError) else 1
            _write_end(folder, {"state": "failed", "error": str(error), "exit_code": exit_code})
            logger.info("failed: %s", error)
            raise
        folder.write_facts({"state": "done", "finished_at": clock.now()})


def _observers(
    run: Run, registry: Registry, screen: Screen, requests: tuple[PictureRequest, ...]
) -> Sequence[Observer]:
    folder = run.folder
    return [
        MetricsObserver(folder.metrics),
        StepTimeObserver(),
        *([TensorBoardObserver(folder.tensorboard)] if run.options.log.tensorboard else []),
        *([PreviewObserver(requests=requests)] if requests else []),
        *registry.observers(run),
        *screen.observers(),
    ]


def run_facts(run: Run) -> dict[str, object]:
    """Give what `run.json` holds of a run that has not begun."""
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
        "forecast": run.forecast.to_dict() if run.forecast else None,
    }


def _write_end(folder: RunFolder, facts: dict[str, object]) -> None:
    with suppress(PlatformError):  # the disk may be what made the run fail, and that is to be told
        folder.write_facts(facts)
