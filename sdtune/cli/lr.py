"""`sdtune lr`: find a learning rate, and read one that a run has found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdtune.cli.request import MethodCommand, chosen_registry, common_flags, load_request, make_request
from sdtune.config.optimizers import ESTIMATORS
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.config.schema import CoreOptions

_COUNT = click.IntRange(min=1)


@click.group()
def lr() -> None:
    """Find a learning rate for your images."""


@lr.command(cls=MethodCommand)
@common_flags("steps", "output")
@click.option("--steps", type=_COUNT, default=300, show_default=True, metavar="N", help="The most steps it may take.")
@click.option("--optimizer", type=click.Choice(ESTIMATORS), default=ESTIMATORS[0], show_default=True, help="Estimator.")
@click.option(
    "--compare",
    type=click.IntRange(0, 9),
    default=5,
    show_default=True,
    metavar="N",
    help="Compare so many rates on held-out images; 0: none.",
)
@click.option("--compare-steps", type=_COUNT, default=60, show_default=True, metavar="N", help="Steps of each of them.")
@click.option("--write", type=click.Path(path_type=Path), metavar="FILE", help="Write a configuration with the rate.")
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER", help="For the log; default runs/NAME-probe."
)
@click.option("--overwrite", is_flag=True, help="Discard an earlier probe in that folder, and the file of --write.")
@click.pass_context
def probe(
    ctx: click.Context,
    /,
    *,
    steps: int,
    optimizer: str,
    compare: int,
    compare_steps: int,
    write: Path | None,
    output: Path | None,
    overwrite: bool,
    **given: Any,
) -> None:
    """Find the learning rate that suits a run: the words are those of `sdtune train`.

    Prodigy or D-Adaptation trains it until its estimate stands still. Then a few short runs are compared on images that
    they have not seen. Nothing of it is kept but a log.
    """
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.train.rate_search.advised import write_options
    from sdtune.train.rate_search.probe import ProbePlan
    from sdtune.train.rate_search.probe import probe as find_rate

    loaded = load_request(ctx, make_request(ctx, given))
    if write is not None:
        _check_target(write, loaded.options, overwrite=overwrite)
    plan = ProbePlan(
        optimizer=optimizer,
        steps=steps,
        compare=compare,
        compare_steps=compare_steps,
        output=output,
        overwrite=overwrite,
    )
    result = find_rate(loaded, chosen_registry(ctx), ConsoleScreen(), plan)
    if result is None:
        return
    for line in result.describe():
        click.echo(line)
    if write is not None:
        from sdtune.files import write_text

        write_text(write, write_options(result.options, loaded.spec), overwrite=overwrite)
        click.echo(f"written: {write}; train with: sdtune train --config {write}")


@lr.command()
@click.argument("run", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def read(run: str, *, as_json: bool) -> None:
    """Read the learning rate that Prodigy or D-Adaptation has found in a run: its folder, its name, or `last`."""
    from sdtune.train.rate_search.found_rate import describe_all, read_rates
    from sdtune.train.saving.folder import find_run

    found = read_rates(find_run(run))
    if as_json:
        click.echo(json.dumps({one.group: one.to_dict() for one in found}, indent=1, ensure_ascii=False))
        return
    for line in describe_all(found):
        click.echo(line)


def _check_target(path: Path, options: CoreOptions, *, overwrite: bool) -> None:
    """Refuse what could not be written in the end, before anything is trained."""
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists", hint="give --write another name")
    if options.train.steps is None and options.train.epochs is None:
        raise ConfigError("--write needs the length of the run", hint="give train.steps=800, or --epochs 10")
