"""The place where a run goes on: what must fit there, what is told, what is kept of before."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.config.dump import dump
from sdtune.errors import ConfigError, ModelError, Problems
from sdtune.files import write_text
from sdtune.train.machine.environment import compare_environments, describe_environment, using_threads
from sdtune.train.saving.aside import free_name, keep_results, set_aside
from sdtune.train.saving.changes import describe_changes
from sdtune.train.update.extension import check_never_still, describe_jump, rate_curve, show_curves

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.train.run import Run
    from sdtune.train.saving.checkpoint import Checkpoint, Position
    from sdtune.train.saving.resume import Resumption
    from sdtune.train.trainer import Trainer

_RATES = ("train.steps", "train.epochs", "train.lr", "train.schedule.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """A run, assembled with the options it has from now on, and the checkpoint it goes on from.

    Attributes:
        resumption: What was asked for.
        run: The run.
        checkpoint: Where it stood; None: it never took a step.
    """

    resumption: Resumption
    run: Run
    checkpoint: Checkpoint | None

    @property
    def step(self) -> int:
        """Steps done."""
        return self.checkpoint.position.step if self.checkpoint else 0

    def check(self) -> None:
        """Compare the run as it is now with the checkpoint.

        Raises:
            ConfigError: Length, images, captions, base model or parameters do not fit, and no flag allows it.
        """
        self._check_length()
        if self.checkpoint is None:
            return
        problems = Problems(ConfigError)
        with problems.collect():
            self._check_data(self.checkpoint.position)
        with problems.collect():
            self._check_model(self.checkpoint.position)
        problems.raise_if_any()
        try:
            self.run.check_parameters(self.checkpoint.parameters)
        except ModelError as error:
            raise self._misfit(error) from error

    def describe(self) -> Iterator[str]:
        """Tell, before anything is done, how the run goes on."""
        changes, position = self.resumption.changes, self.checkpoint.position if self.checkpoint else None
        yield from describe_changes(changes)
        if any(change.option.startswith(_RATES) for change in changes):
            yield from self._curves()
        if position is not None:
            with using_threads(self.run.options.train.threads):
                here = describe_environment(self.run.device)
            yield from (f"warning: {line}" for line in compare_environments(position.environment, here))
            if self._other_data(position):
                yield "warning: images or captions changed; the step number alone says which come next"
        yield from self._later_changes()
        yield f"{self.run.name}: going on after step {self.step} of {self.run.timetable.steps}"

    def restore(self, trainer: Trainer) -> None:
        """Put the run where it stood.

        Raises:
            ConfigError: The changed options do not go with the state of the optimizer.
        """
        if self.checkpoint is None:
            return
        try:
            trainer.restore(self.checkpoint)
        except ModelError as error:
            raise self._misfit(error) from error

    def record(self) -> Iterator[str]:
        """Keep what the run would write over, and note what changed; give a line for each thing that is kept.

        Raises:
            PlatformError: Something cannot be written.
        """
        yield from self._keep()
        yield from self._record()

    def _check_length(self) -> None:
        lengths = [change for change in self.resumption.changes if change.kind == "length"]
        if not lengths:
            return
        given, asked = self.resumption.given, ", ".join(map(str, lengths))
        new, old = self.run.timetable.steps, self.resumption.old_steps or 0
        if new <= self.step:
            raise ConfigError(
                f"{asked}: the run would end at step {new}, and the checkpoint is at {self.step}",
                hint="train longer, or go back to an earlier checkpoint; where rates end, so does the run",
            )
        if new > old and not given.extend:
            raise ConfigError(f"{asked}: the run has {old} steps, and would have {new}", hint="add --extend")
        if new < old and not given.accept_changes:
            raise ConfigError(f"{asked}: the run has {old} steps, and would have {new}", hint="add --accept-changes")
        check_never_still(self.run.groups, self.run.options.train, self.step, new)

    def _check_data(self, position: Position) -> None:
        if self._other_data(position) and not self.resumption.given.accept_changes:
            raise ConfigError(
                "images or captions changed since the checkpoint",
                where=self._places(),
                hint="restore them, start a new run in another --output, or go on with --accept-changes",
            )

    def _other_data(self, position: Position) -> bool:
        return position.dataset != self.run.index.digest and not self.run.missing

    def _check_model(self, position: Position) -> None:
        now, saved = self.run.base_digests(), {"unet": position.model, **position.parts}
        if changed := [part for part, digest in saved.items() if digest != now[part]]:
            raise ConfigError(
                f"the base model '{self.run.options.model.path}' changed since the checkpoint: {', '.join(changed)}",
                where=self._places(),
                hint="restore it, or start a new run in another --output",
            )

    def _places(self) -> str:
        changed = [str(change) for change in self.resumption.changes if change.kind == "place"]
        return ", ".join(changed) or str(self.run.folder.path)

    def _misfit(self, error: ModelError) -> ConfigError:
        changed = ", ".join(str(change) for change in self.resumption.changes if change.kind == "number")
        return ConfigError(
            f"the run cannot go on{f' with {changed}' if changed else ''}: {error}",
            where=str(self.run.folder.path),
            hint="start a new run in another --output",
        )

    def _curves(self) -> Iterator[str]:
        old, new = self.resumption.saved.options.train, self.run.options.train
        steps = self.run.timetable.steps
        before = self.resumption.old_steps or steps
        group = max(self.run.groups, key=lambda group: rate_curve(group, new, steps)(self.step))
        curve, other = rate_curve(group, old, before), rate_curve(group, new, steps)
        yield show_curves(curve, before, other, steps, self.step)
        if jump := describe_jump(curve, other, steps, self.step):
            yield f"warning: {jump}"

    def _later_changes(self) -> Iterator[str]:
        """Tell of options that were changed at a later step than the one the run goes back to."""
        for change in reversed(self.run.folder.read_facts().get("changes", [])):
            if change["step"] <= self.step:
                return  # what is older was settled when the run came by here last
            if names := ", ".join(change["options"]):
                yield f"warning: {names} changed after step {change['step']}; the new values now hold from here on"

    def _keep(self) -> Iterator[str]:
        folder = self.run.folder
        if self.resumption.path is not None and (kept := set_aside(folder, self.step)):
            yield f"later checkpoints, and copies of all results so far, are kept in {kept}"
        elif self.resumption.was_done and (kept := keep_results(folder, self.step)):
            yield f"the files of the finished run are kept in {kept}"

    def _record(self) -> Iterator[str]:
        """Keep the old options beside the new ones, and note in `run.json` what changed where."""
        folder, resumption = self.run.folder, self.resumption
        if resumption.changes:
            old = free_name(folder.path / f"config-step-{self.step:08d}.yaml")
            write_text(old, folder.config.read_text(encoding="utf-8"))
            changed = {change.option for change in resumption.changes}
            origins = {name: origin for name, origin in resumption.loaded.origins.items() if name in changed}
            write_text(folder.config, dump(resumption.loaded.options, origins), overwrite=True)
            yield f"the options so far are kept in {old}"
        facts: dict[str, Any] = {"name": self.run.name, "steps": self.run.timetable.steps, "step": self.step}
        if resumption.changes or resumption.path is not None:
            facts["changes"] = [*folder.read_facts().get("changes", []), self._note()]
        folder.write_facts(facts)

    def _note(self) -> dict[str, Any]:
        changes = self.resumption.changes
        return {
            "step": self.step,
            "time": time.time(),
            "options": {change.option: [change.old, change.new] for change in changes},
            "allowed_by": list(self.resumption.given.allowed),
        }
