"""A small run, forked children that fail, and what must hold after every fault."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import command, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.saving.checkpoint import list_checkpoints, load_checkpoint
from sdtune.train.saving.lock import refuse_held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

STEPS = 6
PLUGINS = (sdtune_lora,)


@dataclass(frozen=True)
class Child:
    """A process forked from this one, which has imported everything.

    Attributes:
        pid: Its number.
        said: File of what it says.
    """

    pid: int
    said: Path

    def wait(self) -> int:
        """Give its exit code, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self, after_s: float) -> int:
        """End it by SIGKILL after some time, wherever it is then."""
        time.sleep(after_s)
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def errors(self) -> list[str]:
        """List the lines by which it told of an error."""
        return [line for line in self.said.read_text().splitlines() if line.startswith("error:")]

    def warnings(self) -> list[str]:
        """List its warnings."""
        return [line for line in self.said.read_text().splitlines() if line.startswith("warning:")]


def fork(work: Callable[[], int | None], said: Path) -> Child:
    """Do `work` in a child; what it gives is the exit code, and what it raises is 1."""
    pid = os.fork()
    if pid:
        return Child(pid, said)
    try:
        sys.stdout = sys.stderr = said.open("w", encoding="utf-8", buffering=1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
        torch.set_num_threads(torch.get_num_threads())  # its pool is made anew by one thread: two at once see none
        gc.freeze()  # else every collection looks at all that the parent has imported
        code = work() or 0
    except BaseException:  # noqa: BLE001  # the end of a process
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        os._exit(code)  # nothing of the parent's is cleared up


@dataclass(frozen=True)
class Runs:
    """Trainings of one small run, each as a command of its own in a child."""

    options: tuple[str, ...]
    folder: Path

    def start(self, *more: str, watch: Sequence[object] = (), before: Callable[[], None] | None = None) -> Child:
        """Start the run; `watch` are observers, `before` is done in the child first."""
        return self.command("train", *self.options, f"output.dir={self.folder}", *more, watch=watch, before=before)

    def resume(self, *more: str, watch: Sequence[object] = (), before: Callable[[], None] | None = None) -> Child:
        """Go on with it."""
        return self.command("train", "--resume", str(self.folder), *more, watch=watch, before=before)

    def command(self, *words: str, watch: Sequence[object] = (), before: Callable[[], None] | None = None) -> Child:
        """Run a command line."""

        def work() -> int:
            if before is not None:
                before()
            return command([*PLUGINS, observed_by(watch)], *words)

        return fork(work, self.folder.with_name(f"said-{time.monotonic_ns()}.txt"))

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints there are."""
        return [int(path.name.rpartition("-")[2]) for path in list_checkpoints(self.folder / "checkpoints")]

    @property
    def losses(self) -> list[str]:
        """Losses of all steps, exact."""
        return losses(self.folder)

    @property
    def state(self) -> str:
        """What `run.json` says the run is."""
        return json.loads((self.folder / "run.json").read_text())["state"]

    def check_told(self, child: Child, code: int) -> str:
        """Wait for a child that must fail with `code`; give its one line."""
        got = child.wait()
        said = child.said.read_text()
        assert got == code, said
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if line.startswith(("error:", "stopped:"))]
        assert len(lines) == 1, said
        return lines[0]

    def check_intact(self, *steps: int) -> None:
        """See that these checkpoints, and no others, are there and whole, and nobody holds the run."""
        assert self.steps == list(steps)
        for path in list_checkpoints(self.folder / "checkpoints"):
            load_checkpoint(path)
        refuse_held(self.folder)

    def check_goes_on(self, straight: Path) -> Child:
        """Resume to the end, which must be that of a run nothing happened to; no draft is left."""
        child = self.resume()
        assert child.wait() == 0, child.said.read_text()
        assert self.losses == losses(straight)
        assert newest_bytes(self.folder) == newest_bytes(straight)
        assert not drafts(self.folder)
        assert self.state == "done"
        return child


def losses(folder: Path) -> list[str]:
    """Read the losses of a run, exact."""
    return [json.loads(line)["loss"].hex() for line in (folder / "metrics.jsonl").read_text().splitlines()]


def newest_bytes(folder: Path) -> bytes:
    """Read the trained parameters of a run's newest checkpoint."""
    return (list_checkpoints(folder / "checkpoints")[-1] / "parameters.safetensors").read_bytes()


def drafts(folder: Path) -> list[Path]:
    """List unfinished files and folders."""
    return list(folder.rglob(".sdtune-*.tmp"))


def observed_by(observers: Sequence[object]) -> object:
    """Make a plugin that brings observers."""

    class Watching:
        @staticmethod
        @sdtune_lora.hookimpl
        def sdtune_observers(run):
            return list(observers)

    return Watching


@pytest.fixture(scope="session")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Give the options of a run of six steps that is saved every two."""
    folder = tmp_path_factory.mktemp("faults")
    write_images(folder / "data" / "3_thing", 3, sizes=((64, 64), (96, 48)))
    return (
        "method=lora",
        f"model.path={tiny_sd1(folder / 'tiny')}",
        f"data.path={folder / 'data'}",
        "data.resolution=64",
        f"data.cache.dir={folder / 'cache'}",
        "output.name=thing",
        "output.certify=false",
        f"train.steps={STEPS}",
        "train.lr=1e-2",
        "lora.rank=2",
        "lora.text_encoder=false",
        "log.tensorboard=false",
        "log.forecast=false",
        "save.every_steps=2",
    )


@pytest.fixture(scope="session")
def straight(options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the run with nothing happening to it, in this process; its caches are filled then."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    train(PLUGINS, *options, f"output.dir={folder}")
    return folder


@pytest.fixture
def runs(options: tuple[str, ...], straight: Path, tmp_path: Path) -> Runs:
    """Give a run that is not started, in a folder of its own."""
    return Runs(options, tmp_path / "run")


@pytest.fixture(scope="session")
def faults() -> SimpleNamespace:
    """Give the functions of this file, which test files cannot import."""
    return SimpleNamespace(PLUGINS=PLUGINS, fork=fork, losses=losses, drafts=drafts)


@pytest.fixture(scope="session")
def fault_model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def fault_images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "images"
    write_images(folder, 4)
    return folder


@pytest.fixture
def small_run(fault_model, fault_images):
    """Give options of a run of six steps, the later ones winning."""

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={fault_model}",
            f"data.path={fault_images}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=thing",
            "train.steps=6",
            "train.lr=1e-3",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            "log.forecast=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


@pytest.fixture
def logged():
    """Read one column of a run's metrics."""

    def read(output, name):
        return [json.loads(line)[name] for line in (output / "metrics.jsonl").read_text().splitlines()]

    return read
