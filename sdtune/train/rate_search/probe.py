"""Find a learning rate for a run: Prodigy or D-Adaptation estimates it, short trainings on held-out images judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdtune.config.dump import dump
from sdtune.config.optimizer import OptimizerOptions, ScheduleOptions
from sdtune.config.optimizers import ESTIMATORS
from sdtune.errors import NumericsError
from sdtune.files import write_text
from sdtune.train.launch import launched, run_facts
from sdtune.train.rate_search.advised import final_optimizer, has_text_rate, text_rate, with_rate
from sdtune.train.rate_search.comparison import FEWEST_IMAGES, Comparison, compare_rates, grid, with_held_out
from sdtune.train.rate_search.found_rate import FoundRate, RateLog, both, describe_all
from sdtune.train.rate_search.trial import computing, train_trial, trial_options, without_validation
from sdtune.train.run import run_name
from sdtune.train.saving.folder import PURPOSE, RunFolder
from sdtune.train.update.optimizers import choose_optimizer
from sdtune.train.watching.observers import MetricsObserver, TensorBoardObserver

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from sdtune.config.compose import Loaded
    from sdtune.config.schema import CoreOptions
    from sdtune.models.base import Part
    from sdtune.plugins import Registry
    from sdtune.train.launch import Launch, Screen
    from sdtune.train.run import Run
    from sdtune.train.watching.observers import Observer

_FACTOR = 1.0  # of every group: these optimizers follow one rate for all


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbePlan:
    """How a rate is to be found.

    Attributes:
        optimizer: One of `config.optimizers.ESTIMATORS`.
        steps: The most steps of the estimate.
        compare: How many rates are compared; 0: none.
        compare_steps: Steps of each.
        output: The probe's folder; None: beside the run's, NAME-probe.
        overwrite: Discard an earlier probe that is there.
    """

    optimizer: str
    steps: int
    compare: int
    compare_steps: int
    output: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What was found.

    Attributes:
        found: By group.
        comparison: What held-out images say; None: they were not asked, or there are too few.
        rate: The rate that is recommended.
        text_rate: The text encoder's, where it may have its own.
        options: The run at that rate.
    """

    found: tuple[FoundRate, ...]
    comparison: Comparison | None
    rate: float
    text_rate: float | None
    options: CoreOptions

    def describe(self) -> list[str]:
        """Give lines for the screen."""
        lines = describe_all(self.found)
        if self.comparison is not None:
            lines += self.comparison.describe()
        if self.text_rate is not None:
            lines.append(f"text encoder: {both(self.text_rate)}, a tenth, for it overfits sooner")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain data."""
        return {
            "rate": self.rate,
            "text_encoder": self.text_rate,
            "found": {one.group: one.to_dict() for one in self.found},
            "comparison": self.comparison.to_dict() if self.comparison else None,
        }


def probe(loaded: Loaded, registry: Registry, screen: Screen, plan: ProbePlan) -> ProbeResult | None:
    """Find a rate for a run.

    Returns:
        What was found; of several processes, the first one has it.

    Raises:
        PlatformError: The optimizer's package is not installed.
        NumericsError: The estimate failed.
        SdtuneError: As for a run.
    """
    choose_optimizer(_optimizer(plan, loaded.options))
    with launched(registry, screen, None) as launch:
        return _Probe(launch=launch, loaded=loaded, plan=plan).carry_out()


def probe_folder(options: CoreOptions, plan: ProbePlan) -> RunFolder:
    """Give the folder of a probe."""
    of_run = options.output.dir or Path("runs") / run_name(options)
    return RunFolder(plan.output or of_run.with_name(f"{of_run.name}-probe"))


def _optimizer(plan: ProbePlan, options: CoreOptions) -> OptimizerOptions:
    """Give the estimating optimizer, with the arguments that the run has for it, e.g. `d0`."""
    own = options.train.optimizer
    return own if own.name == plan.optimizer else OptimizerOptions(name=plan.optimizer)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probe:
    """A probe, in one of its processes."""

    launch: Launch
    loaded: Loaded
    plan: ProbePlan

    def carry_out(self) -> ProbeResult | None:
        """Estimate, compare, and write down what was found."""
        launch, folder = self.launch, probe_folder(self.loaded.options, self.plan)
        is_first = launch.ranks.is_first
        if is_first:
            folder.check_free(overwrite=self.plan.overwrite)
        launch.ranks.wait()
        # The run itself is assembled, so that it says what does not fit; then its rates give way to the estimate's.
        loaded = replace(self.loaded, options=trial_options(without_validation(self.loaded.options), self.plan.steps))
        run = launch.assemble(loaded, folder)
        if is_first:
            folder.create(overwrite=self.plan.overwrite)
        with launch.held(folder):
            if is_first:
                write_text(folder.config, dump(self.loaded.options, self.loaded.origins), overwrite=True)
                folder.write_facts({**run_facts(run), "purpose": PURPOSE})
            if missing := run.missing:
                del run
                run = launch.draw_first(missing, loaded, folder)
            with launch.state_kept(folder):
                trained = frozenset(group.part for group in run.groups)
                options = self._comparison_options(run)
                self._tell_cost(run, options)
                found = self._estimate(run)
                del run  # the comparison needs its memory
                result = self._judge(found, options, trained, folder)
                if is_first:
                    folder.write_facts({"step": found[0].steps, "learning_rate": result.to_dict()})
        return result if is_first else None

    def _comparison_options(self, run: Run) -> CoreOptions | None:
        """Give the run's options with images held out; None where rates are not compared."""
        images = len(set(run.index.instances.digests))
        return with_held_out(self.loaded.options, images) if self.plan.compare else None

    def _tell_cost(self, run: Run, options: CoreOptions | None) -> None:
        plan, say = self.plan, self.launch.screen.say
        say(f"probe: at most {run.timetable.steps} steps with {plan.optimizer}, of which nothing is kept but the log")
        if options is not None:
            name = final_optimizer(options.train.optimizer).name
            say(f"then {plan.compare} short runs of {plan.compare_steps} steps with {name}, judged by held-out images")
        elif plan.compare:
            say(f"rates are not compared on held-out images: not enough data, {FEWEST_IMAGES} images are needed")

    def _estimate(self, run: Run) -> tuple[FoundRate, ...]:
        run = _with_factor(run, _optimizer(self.plan, run.options))
        log = RateLog()

        def until(step: int, rates: Mapping[str, float]) -> bool:
            log.add(step, rates)
            return log.is_settled

        other = next(name for name in ESTIMATORS if name != self.plan.optimizer)
        try:
            with computing(run):
                train_trial(self.launch, run, self.launch.open_source(run), self._observers(run), until)
        except NumericsError as error:
            problem = error.problems[0].message
            raise NumericsError(f"no learning rate found: {problem}", hint=f"try --optimizer {other}") from error
        found = log.found()
        if not all(one.has_begun for one in found):
            raise NumericsError(describe_all(found)[0], hint=f"give more --steps, or --optimizer {other}")
        return found

    def _judge(
        self, found: tuple[FoundRate, ...], options: CoreOptions | None, trained: Set[Part], folder: RunFolder
    ) -> ProbeResult:
        rate, spec = max(one.rate for one in found), self.loaded.spec
        comparison = None if options is None else self._compare(options, rate, trained, folder)
        if comparison is not None and comparison.best is not None:
            rate = comparison.best.rate
        return ProbeResult(
            found=found,
            comparison=comparison,
            rate=rate,
            text_rate=text_rate(rate) if has_text_rate(spec, trained) else None,
            options=with_rate(self.loaded.options, spec, rate, trained),
        )

    def _observers(self, run: Run) -> Sequence[Observer]:
        if not self.launch.ranks.is_first:
            return ()
        run.folder.check_logs(tensorboard=run.options.log.tensorboard)
        events = [TensorBoardObserver(run.folder.tensorboard)] if run.options.log.tensorboard else []
        return [MetricsObserver(run.folder.metrics), *events, *self.launch.screen.observers()]

    def _compare(self, options: CoreOptions, rate: float, trained: Set[Part], folder: RunFolder) -> Comparison | None:
        def at(rate: float) -> CoreOptions:
            return trial_options(with_rate(options, self.loaded.spec, rate, trained), self.plan.compare_steps)

        compared = compare_rates(self.launch, self.loaded, grid(rate, self.plan.compare), at, folder)
        if compared is None:
            self.launch.screen.say("rates are not compared: too few images are held out")
        return compared


def _with_factor(run: Run, optimizer: OptimizerOptions) -> Run:
    """Give a run whose groups all have the rate 1, and an optimizer that finds what it is a factor of.

    One such optimizer follows a single rate: with several, kohya's scripts showed that of the first group.
    """
    train = run.options.train.model_copy(
        update={
            "lr": _FACTOR,
            "rates": (),
            "optimizer": optimizer,
            "schedule": ScheduleOptions(),
            "fused_backward": False,
        }
    )
    groups = tuple(replace(group, lr=_FACTOR, lr_scale=1.0, stop=None) for group in run.groups)
    return replace(run, options=run.options.model_copy(update={"train": train}), groups=groups)
