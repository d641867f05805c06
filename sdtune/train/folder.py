"""The run folder: everything a run leaves behind, and who may write to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from sdtune.errors import ConfigError, PlatformError
from sdtune.files import write_text
from sdtune.paths import user_cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        if self.facts.exists():
            with RunLock(self):
                shutil.rmtree(self.path)
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
            PlatformError: It is a file.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise PlatformError("the run folder is a file", where=str(self.path), hint="choose another --output")
        if not any(self.path.iterdir()):
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

    def open(self) -> None:
        """Check that the folder holds a run.

        Raises:
            ConfigError: It does not.
        """
        if not self.facts.exists() or not self.config.exists():
            raise ConfigError("no run to resume here", where=str(self.path), hint="give the folder of a run, or `last`")

    def read_facts(self) -> dict[str, Any]:
        """Read `run.json`; empty when there is none."""
        if not self.facts.exists():
            return {}
        facts: dict[str, Any] = json.loads(self.facts.read_text(encoding="utf-8"))
        return facts

    def write_facts(self, changes: Mapping[str, Any]) -> None:
        """Change entries of `run.json`, atomically."""
        text = json.dumps({**self.read_facts(), **changes}, indent=1, ensure_ascii=False) + "\n"
        write_text(self.facts, text, overwrite=True)


class RunLock:
    """Hold a run folder for this process; the system lets go when the process dies, however it dies.

    Raises:
        PlatformError: Another process holds it.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        path = self._folder.path / ".lock"
        self._file = path.open("a+", encoding="utf-8")
        try:
            _lock(self._file)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise PlatformError(
                f"the run is being trained by {holder}", where=str(self._folder.path), hint="wait for it, or stop it"
            ) from error
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def _lock(file: IO[str]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows only
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
