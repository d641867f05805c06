"""The questions the core asks its plugins; each answers "what exists?" and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import click

    from sdtune.api import Observer, Run
    from sdtune.specs import FamilySpec, MethodSpec, TaggerSpec

PROJECT = "sdtune"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def sdtune_methods() -> Iterable[MethodSpec]:  # type: ignore[empty-body]  # a hook specification has no body
    """List the methods this plugin brings; asked when the registry is first needed."""


@hookspec
def sdtune_families() -> Iterable[FamilySpec]:  # type: ignore[empty-body]  # a hook specification has no body
    """List the model families this plugin brings; asked when the registry is first needed."""


@hookspec(firstresult=True)
def sdtune_detect_family(shapes: Mapping[str, tuple[int, ...]], path: Path) -> str | None:
    """Name the family of a model by its tensor names and shapes, or None.

    Args:
        shapes: Tensor name to shape, from the header of the UNet file, or of the whole single file.
        path: The file or folder the shapes came from.
    """


@hookspec
def sdtune_taggers() -> Iterable[TaggerSpec]:  # type: ignore[empty-body]  # a hook specification has no body
    """List the taggers this plugin brings."""


@hookspec
def sdtune_observers(run: Run) -> Iterable[Observer]:  # type: ignore[empty-body]  # a hook specification has no body
    """List observers for one run; asked once a run, in the main process."""


@hookspec
def sdtune_commands() -> Iterable[click.Command]:  # type: ignore[empty-body]  # a hook specification has no body
    """List further commands; asked for the help, or when a command is not known."""
