"""`sdtune train` and `sdtune plan`: from options to a run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from sdtune.cli.request import (
    MethodCommand,
    chosen_registry,
    common_flags,
    load_request,
    make_request,
    settings_of,
)
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.config.compose import Loaded
    from sdtune.train.saving.resume import Given

_fit_option = click.option(
    "--fit", metavar="SIZE", help="Choose settings with which the run fits into so much memory, e.g. 8GB."
)


@click.command(cls=MethodCommand)
@common_flags()
@click.option("--resume", metavar="RUN", help="Go on with a run: `last`, its folder, or one of its checkpoints.")
@click.option("--extend", is_flag=True, help="With --resume: more steps or epochs than the run had.")
@click.option("--accept-changes", is_flag=True, help="With --resume: other options that change the numbers.")
@click.option("--stop-after", type=click.IntRange(min=0), metavar="N", help="Save and stop after N more steps.")
@_fit_option
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@click.option("--overwrite", is_flag=True, help="Discard a run that is in the output folder.")
@click.pass_context
def train(
    ctx: click.Context,
    /,
    *,
    resume: str | None,
    extend: bool,
    accept_changes: bool,
    stop_after: int | None,
    fit: str | None,
    dry_run: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Train: show the plan, then do it.

    Options not listed here are given as OPTION=VALUE, e.g. train.schedule.name=cosine; `sdtune config explain` lists
    all of them.
    """
    request = make_request(ctx, given)
    if resume is not None:
        if overwrite:
            raise ConfigError("--overwrite starts anew, --resume goes on", hint="give one of them")
        if fit is not None:
            raise ConfigError("--fit chooses settings of a new run, --resume goes on", hint="give one of them")
        from sdtune.train.saving.resume import Given

        together = Given(
            file=request.config,
            flags=settings_of(request),
            overrides=request.overrides,
            extend=extend,
            accept_changes=accept_changes,
        )
        _resume(ctx, resume, together, stop_after=stop_after, dry_run=dry_run)
        return
    if extend or accept_changes:
        raise ConfigError(f"--{'extend' if extend else 'accept-changes'} is for --resume", hint="add --resume RUN")
    loaded = load_request(ctx, request)
    if dry_run:
        _show_plan(ctx, loaded, fit, as_json=False)
        return
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.train.launch import start

    limit = _bytes(fit)
    start(loaded, chosen_registry(ctx), ConsoleScreen(), stop_after=stop_after, overwrite=overwrite, fit_bytes=limit)


@click.command(cls=MethodCommand)
@common_flags()
@_fit_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def plan(ctx: click.Context, /, *, fit: str | None, as_json: bool, **given: Any) -> None:
    """Show what a run would do: images, steps, what is trained, what is written, what it takes."""
    _show_plan(ctx, load_request(ctx, make_request(ctx, given)), fit, as_json=as_json)


def _show_plan(ctx: click.Context, loaded: Loaded, fit: str | None, *, as_json: bool) -> None:
    """Print a plan, and then what stands against it."""
    from sdtune.train.machine.ranks import Ranks
    from sdtune.train.planning.fitting import prepare
    from sdtune.train.planning.plan import make_plan
    from sdtune.train.planning.preflight import check_files
    from sdtune.train.run import run_folder

    _, run = prepare(loaded, chosen_registry(ctx), run_folder(loaded.options), Ranks(), _bytes(fit))
    made = make_plan(run)
    click.echo(json.dumps(made.to_dict(), indent=1, ensure_ascii=False) if as_json else made.render())
    check_files(run)


def _bytes(fit: str | None) -> int | None:
    from sdtune.train.planning.fitting import parse_size

    return None if fit is None else parse_size(fit)


def _resume(ctx: click.Context, name: str, given: Given, *, stop_after: int | None, dry_run: bool) -> None:
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.train.launch import resume
    from sdtune.train.saving.resume import plan_resumption

    resumption = plan_resumption(chosen_registry(ctx), name, given)
    resume(resumption, chosen_registry(ctx), ConsoleScreen(), stop_after=stop_after, is_dry=dry_run)
