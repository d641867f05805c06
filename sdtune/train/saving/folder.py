"""The run folder: everything a run leaves behind, and who may write to it."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdtune.errors import ConfigError, PlatformError
from sdtune.files import remove_folder, sweep_drafts, write_text
from sdtune.paths import user_cache_folder
from sdtune.train.saving.lock import NAME as LOCK
from sdtune.train.saving.lock import RunLock, refuse_held

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)
PURPOSE = "learning rate"  # in `run.json` of a probe, which keeps nothing to go on with
RunState = Literal["planned", "running", "stopped", "failed", "done"]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run.

    Attributes:
        path: The folder itself.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def facts(self) -> Path:
        """State, step and names, for views over run folders."""
        return self.path / "run.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def exports(self) -> Path:
        """Folder of exported files."""
        return self.path / "exports"

    @property
    def previews(self) -> Path:
        """Folder of pictures."""
        return self.path / "previews"

    @property
    def grid(self) -> Path:
        """All pictures side by side."""
        return self.path / "grid.png"

    @property
    def metrics(self) -> Path:
        """Losses and rates, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def validation(self) -> Path:
        """Losses of held-out images, one JSON object a measurement."""
        return self.path / "validation.jsonl"

    @property
    def schedule(self) -> Path:
        """What each step trains, one JSON object a step; where `data.write_schedule` is on."""
        return self.path / "schedule.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard events."""
        return self.path / "tensorboard"

    @property
    def log(self) -> Path:
        """What was said."""
        return self.path / "log.txt"

    def create(self, *, overwrite: bool) -> None:
        """Make a fresh folder, as `check_free` allows.

        Raises:
            ConfigError: It holds something already, and `overwrite` is off, or it is not a run's folder.
            PlatformError: It cannot be made.
        """
        self.check_free(overwrite=overwrite)
        sweep_drafts(self.path.parent, is_alone=False, depth="here")
        if self.facts.exists():
            with RunLock(self.path):
                remove_folder(self.path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlatformError(
                f"cannot make the run folder: {error.strerror}", where=str(self.path), hint="choose another --output"
            ) from error

    def check_free(self, *, overwrite: bool) -> None:
        """Check that a new run may have the folder; nothing is changed.

        Raises:
            ConfigError: It holds something already, and `overwrite` is off, or it is not a run's folder.
            PlatformError: It is a file, a process trains there, or the system does not take the path.
        """
        try:
            if not self.path.exists():
                return
        except OSError as error:
            raise PlatformError(
                f"cannot use the run folder: {error.strerror}", where=str(self.path), hint="choose another --output"
            ) from error
        if not self.path.is_dir():
            raise PlatformError("the run folder is a file", where=str(self.path), hint="choose another --output")
        refuse_held(self.path)
        names = {path.name for path in self.path.iterdir()}
        if not names or self._is_of_no_run(names):
            return
        if not self.facts.exists():
            raise ConfigError(
                "the output folder is not empty, and no run of sdtune",
                where=str(self.path),
                hint="choose another --output",
            )
        if not overwrite:
            raise ConfigError(
                "a run is in the output folder already",
                where=str(self.path),
                hint="go on with --resume, choose another --output, or discard it with --overwrite",
            )

    def _is_of_no_run(self, names: set[str]) -> bool:
        """Tell whether a run was killed here before it began: a lock, and what is written before `run.json`."""
        drafts = {name for name in names if name.startswith(".sdtune-")}
        return LOCK in names and names - drafts <= {LOCK, self.config.name, self.log.name}

    def open(self) -> None:
        """Check that the folder holds a run.

        Raises:
            ConfigError: It does not.
        """
        if not self.facts.exists() or not self.config.exists():
            raise ConfigError("no run to resume here", where=str(self.path), hint="give the folder of a run, or `last`")

    def read_facts(self) -> dict[str, Any]:
        """Read `run.json`; empty when there is none, or it is damaged."""
        if not self.facts.exists():
            return {}
        try:
            facts: dict[str, Any] = json.loads(self.facts.read_text(encoding="utf-8"))
        except ValueError:
            logger.warning("%s is damaged, and written anew", self.facts)
            return {}
        return facts

    def write_facts(self, changes: Mapping[str, Any]) -> None:
        """Change entries of `run.json`, atomically."""
        text = json.dumps({**self.read_facts(), **changes}, indent=1, ensure_ascii=False) + "\n"
        write_text(self.facts, text, overwrite=True)

    def check_logs(self, *, tensorboard: bool) -> None:
        """Check that metrics, and events where they are wanted, can be written.

        Raises:
            PlatformError: They cannot.
        """
        try:
            self.metrics.open("a").close()
            if tensorboard:
                self.tensorboard.mkdir(exist_ok=True)
                tempfile.TemporaryFile(dir=self.tensorboard).close()
        except OSError as error:
            raise PlatformError(
                f"cannot write the logs of the run: {error.strerror}",
                where=str(self.path),
                hint="see what is in its place",
            ) from error


def _last_run_note() -> Path:
    return user_cache_folder() / "last-run"


def remember_last(folder: RunFolder) -> None:
    """Note the folder as `last`; a cache folder that cannot be written is no reason to stop."""
    note = _last_run_note()
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(folder.path.resolve()), encoding="utf-8")
    except OSError:
        return


def find_run(name: str) -> RunFolder:
    """Give the run folder for a path, the name of a run under `runs/`, or `last`.

    Raises:
        ConfigError: There is none.
    """
    candidates = [Path(name), Path("runs") / name]
    if name == "last" and _last_run_note().exists():
        candidates = [Path(_last_run_note().read_text(encoding="utf-8"))]
    for path in candidates:
        if path.is_dir():
            folder = RunFolder(path)
            folder.open()
            return folder
    raise ConfigError(f"no run '{name}'", hint="give the folder of a run, the name of one under runs/, or `last`")
