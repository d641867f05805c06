"""Run a training or a command from a test, as the command line would."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.train.launch import Screen, resume, start
from sdtune.train.saving.resume import Given, plan_resumption

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sdtune.train.run import Run


def train(plugins: Iterable[object] | Registry, *overrides: str, stop_after: int | None = None) -> Run:
    """Train with options given as `a.b=c`, in this process.

    Args:
        plugins: Plugin modules that bring the method, or a registry.
        overrides: Options; `method`, `model.path`, `data.path`, `output.dir` and a length at least. Files are not read
            back as other programs do unless `output.certify=true` is among them, nothing is forecast unless
            `log.forecast=true` is, and images are not looked through for defects unless `log.check=true` is.
        stop_after: Stop after this many steps.

    Raises:
        SdtuneError: What the command line would print; StoppedError after `stop_after`.
    """
    registry = _registry(plugins)
    quick = ("output.certify=false", "log.forecast=false", "log.check=false", *overrides)
    return start(load(registry, overrides=quick), registry, Screen(), stop_after=stop_after)


def resume_training(
    plugins: Iterable[object] | Registry,
    place: Path,
    *overrides: str,
    stop_after: int | None = None,
    extend: bool = False,
    accept_changes: bool = False,
) -> None:
    """Go on with a run, in this process.

    Args:
        plugins: As `train`.
        place: The run's folder, or that of one of its checkpoints.
        overrides: Options given as `a.b=c`, as together with `--resume`.
        stop_after: Stop after this many more steps.
        extend: `--extend`.
        accept_changes: `--accept-changes`.

    Raises:
        SdtuneError: As `train`.
    """
    registry = _registry(plugins)
    given = Given(overrides=overrides, extend=extend, accept_changes=accept_changes)
    resume(plan_resumption(registry, str(place), given), registry, Screen(), stop_after=stop_after)


def command(plugins: Iterable[object] | Registry, *words: str) -> int:
    """Run a command line in this process, with no plugins but these, and give its exit code."""
    from sdtune.cli.main import run

    return run(words, _registry(plugins))


def _registry(plugins: Iterable[object] | Registry) -> Registry:
    return plugins if isinstance(plugins, Registry) else Registry.from_plugins(plugins)
