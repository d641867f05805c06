"""A run that is to go on: from which checkpoint, and with which options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdtune.config.compose import load
from sdtune.config.files import read_with_bases
from sdtune.config.overrides import parse_override
from sdtune.errors import ConfigError
from sdtune.train.saving.aside import checkpoint_step
from sdtune.train.saving.changes import check_changes, find_changes
from sdtune.train.saving.checkpoint import latest_checkpoint, list_checkpoints, load_checkpoint
from sdtune.train.saving.folder import PURPOSE, RunFolder, find_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdtune.config.compose import Loaded
    from sdtune.config.overrides import Setting
    from sdtune.plugins import Registry
    from sdtune.train.saving.changes import Change
    from sdtune.train.saving.checkpoint import Checkpoint

_LENGTHS = ("train.steps", "train.epochs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was given together with `--resume`.

    Attributes:
        file: A file of options.
        flags: Options given as flags.
        overrides: Options given as `a.b=c`.
        extend: Whether the run may be made longer.
        accept_changes: Whether other options that change its numbers may change.
    """

    file: Path | None = None
    flags: Sequence[Setting] = ()
    overrides: Sequence[str] = ()
    extend: bool = False
    accept_changes: bool = False

    @property
    def allowed(self) -> tuple[str, ...]:
        """The permissions, by their flags."""
        both = (("--extend", self.extend), ("--accept-changes", self.accept_changes))
        return tuple(flag for flag, is_given in both if is_given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """A run that is to go on.

    Attributes:
        folder: Its folder.
        path: The checkpoint to go on from; None: the newest that is whole.
        saved: Its options so far.
        loaded: Its options from now on.
        changes: Where the two differ.
        given: What was asked for.
        old_steps: Length of the run so far; None when it never began.
        was_done: Whether the run had come to its end.
    """

    folder: RunFolder
    path: Path | None
    saved: Loaded
    loaded: Loaded
    changes: tuple[Change, ...]
    given: Given
    old_steps: int | None
    was_done: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to do: the run is done, not made longer, and not gone back on."""
        is_newest = self.path is None or self.path.name == list_checkpoints(self.folder.checkpoints)[-1].name
        return self.was_done and is_newest and not any(change.kind == "length" for change in self.changes)

    def check_complete(self) -> None:
        """Refuse changes that a complete run has no steps left for.

        Raises:
            ConfigError: There are some.
        """
        late = [str(change) for change in self.changes if change.kind == "number"]
        if late:
            raise ConfigError(
                f"the run is complete, so these options come too late: {', '.join(late)}",
                hint="make it longer with --steps N --extend, or go back: --resume RUN/checkpoints/step-N",
            )

    def read_checkpoint(self, *, renames: bool) -> tuple[Checkpoint | None, list[str]]:
        """Load the checkpoint, and give a line for each damaged one that was passed over.

        Args:
            renames: Damaged ones get other names; hold the run for that.

        Raises:
            ModelError: The one that was named is damaged, or all are.
        """
        if self.path is not None:
            return load_checkpoint(self.path), []
        return latest_checkpoint(self.folder.checkpoints, renames=renames)


def plan_resumption(registry: Registry, name: str, given: Given) -> Resumption:
    """Find a run, lay the given options over its own, and see whether it may go on with them.

    Args:
        registry: Where methods are looked up.
        name: A run's folder, its name under `runs/`, `last`, or the folder of one of its checkpoints.
        given: What was given together with `--resume`.

    Raises:
        ConfigError: There is no such run, or an option may not change.
    """
    from sdtune.demo.images import with_demo_images  # `demo` as a name for images is above the loop

    folder, path = find_place(name)
    facts = folder.read_facts()
    if facts.get("purpose") == PURPOSE:
        raise ConfigError(
            "this is a probe of the learning rate, which cannot go on",
            where=str(folder.path),
            hint="start it again, with --overwrite",
        )
    saved = with_demo_images(load(registry, folder.config))
    loaded = saved
    if given.file or given.flags or given.overrides:
        overrides = [*_other_length(given), *given.overrides]
        loaded = load(registry, given.file, flags=given.flags, overrides=overrides, saved=folder.config)
        loaded = _stay_in(folder, with_demo_images(loaded), saved)
    changes = find_changes(saved.options, loaded.options)
    check_changes(changes, given.allowed)
    return Resumption(
        folder=folder,
        path=path,
        saved=saved,
        loaded=loaded,
        changes=changes,
        given=given,
        old_steps=facts.get("steps"),
        was_done=facts.get("state") == "done",
    )


def find_place(name: str) -> tuple[RunFolder, Path | None]:
    """Give the run for a name, and its checkpoint where the folder of one is named.

    Raises:
        ConfigError: There is none.
    """
    path = Path(name)
    if path.parent.name == "checkpoints" and checkpoint_step(path) >= 0:
        folder = find_run(str(path.parent.parent))
        path = folder.checkpoints / path.name
        if not path.is_dir():
            there = ", ".join(found.name for found in list_checkpoints(folder.checkpoints))
            raise ConfigError(f"no checkpoint '{name}'", hint=f"there are {there}" if there else "there is none")
        return folder, path
    return find_run(name), None


def _stay_in(folder: RunFolder, loaded: Loaded, saved: Loaded) -> Loaded:
    """Take naming the run's own folder for no change, also where the folder was moved."""
    output = loaded.options.output
    if output.dir is None or output.dir.resolve() != folder.path.resolve():
        return loaded
    same = output.model_copy(update={"dir": saved.options.output.dir})
    return replace(loaded, options=loaded.options.model_copy(update={"output": same}))


def _other_length(given: Given) -> list[str]:
    """Where one kind of length is given, drop the other kind that the run may have."""
    named = {length for length in _LENGTHS if _gives(given, length)}
    return [f"{length}=---" for length in _LENGTHS if len(named) == 1 and length not in named]


def _gives(given: Given, option: str) -> bool:
    path = tuple(option.split("."))
    settings: Iterable[tuple[str, ...]] = (
        *(flag.parse()[0] for flag in given.flags),
        *(parse_override(word)[0] for word in given.overrides),
    )
    return path in settings or (given.file is not None and read_with_bases(given.file).find(path) is not None)
