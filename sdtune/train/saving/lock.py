"""Who trains a run: one process, known by name to the others, and followed by the next when it is gone."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from sdtune.errors import PlatformError
from sdtune.files import try_lock

NAME = ".lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that holds a run, or held it.

    Attributes:
        pid: Its number.
        host: The computer's name.
        boot: What the system calls the time since it was started; empty where it has no name for it.
    """

    pid: int
    host: str
    boot: str

    @classmethod
    def here(cls) -> Owner:
        """Give this process."""
        return cls(pid=os.getpid(), host=socket.gethostname(), boot=_boot())

    @classmethod
    def read(cls, text: str) -> Owner | None:
        """Read what `write` gave; None when it is something else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def write(self) -> str:
        """Give it as one line of JSON."""
        return json.dumps(asdict(self)) + "\n"

    def may_live(self) -> bool:
        """Tell whether it may still run; false when its computer was started anew, or nothing has its number."""
        here = Owner.here()
        if self.host != here.host:
            return True
        return self.boot == here.boot and _has_process(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class RunLock:
    """Hold a run folder for this process; the system lets go when the process dies, however it dies.

    Attributes:
        left_by: The process that held it last and died with it; None when it let go by itself.

    Raises:
        PlatformError: Another process holds it, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.left_by: Owner | None = None
        self._folder = folder
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        self._file = file = _take(self._folder)
        self.left_by = Owner.read(file.read())
        _write(file, Owner.here().write())
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            _write(self._file, "")
            self._file.close()


def refuse_held(folder: Path) -> None:
    """Check that no process trains the run of a folder.

    Raises:
        PlatformError: One does.
    """
    if (folder / NAME).exists():
        _take(folder).close()


def _take(folder: Path) -> IO[str]:
    """Open the lock file at its start, locked."""
    try:
        file = (folder / NAME).open("a+", encoding="utf-8")
    except OSError as error:
        raise PlatformError(
            f"cannot write the run folder: {error.strerror}", where=str(folder), hint="choose another --output"
        ) from error
    file.seek(0)
    if _is_free(file):
        file.seek(0)
        return file
    file.seek(0)
    holder = Owner.read(file.read()) or "another process"
    file.close()
    raise PlatformError(f"the run is being trained by {holder}", where=str(folder), hint="wait for it, or stop it")


def _is_free(file: IO[str]) -> bool:
    try:
        return try_lock(file.fileno())
    except OSError:  # a network file system without locks: what is written there has to do
        owner = Owner.read(file.read())
        return owner is None or not owner.may_live()


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _has_process(pid: int) -> bool:
    if os.name != "posix":  # os.kill would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
