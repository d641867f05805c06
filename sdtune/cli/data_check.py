"""`sdtune data check`: what is wrong with images and captions, and how it is mended."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdtune.cli.request import MethodCommand, chosen_registry, common_flags, load_request, make_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sdtune.cli.request import Request
    from sdtune.config.compose import Loaded
    from sdtune.config.schema import CoreOptions
    from sdtune.data.check.survey import RunFacts
    from sdtune.plugins import Registry

_UNUSED = ("data", "output", "webui-dir", "comfyui-dir", "name", "lr", "precision", "seed")
_USUAL_PX = "512"
_FAILED = 3
_TELL_EVERY = 20


@click.command(cls=MethodCommand)
@click.argument("folder", required=False, metavar="[DIR]")
@common_flags(*_UNUSED)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every finding.")
@click.option("--all", "all_places", is_flag=True, help="Show every place, not the first few of each kind.")
@click.option(
    "--fix-script",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a shell script that mends what can be mended; read it, then run it. Nothing is deleted by it.",
)
@click.pass_context
def check(
    ctx: click.Context,
    /,
    *,
    folder: str | None,
    as_json: bool,
    all_places: bool,
    fix_script: Path | None,
    **given: Any,
) -> None:
    r"""Look for what is wrong in DIR, say why it matters and how to mend it.

    \b
    sdtune data check photos
    sdtune data check photos --model v1-5-pruned.safetensors --batch-size 4
    sdtune data check --config run.yaml --fix-script mend.sh

    The exit code is 3 when a run would refuse something.
    """
    from sdtune.data.check.diagnosis import diagnose
    from sdtune.data.check.looking import look
    from sdtune.data.check.report import PLACES, render, to_dict
    from sdtune.data.check.script import write_script
    from sdtune.files import write_text

    options, facts = _prepare(_load(ctx, make_request(ctx, given), folder), chosen_registry(ctx))
    with _counting() as on_image:
        survey = look(options, facts, on_image)
    diagnosis = diagnose(survey)
    if as_json:
        click.echo(json.dumps(to_dict(diagnosis), indent=1, ensure_ascii=False))
    else:
        click.echo(render(diagnosis, None if all_places else PLACES))
    if fix_script is not None:
        write_text(fix_script, write_script(diagnosis))
        click.echo(f"written: {fix_script}; read it, then run: sh {fix_script}", err=True)
    if diagnosis.count("error"):
        ctx.exit(_FAILED)


@contextmanager
def _counting() -> Iterator[Callable[[Path], None]]:
    """Count images on the terminal while they are read, and wipe the count out at the end."""
    if not sys.stderr.isatty():
        yield lambda path: None
        return
    numbers = count(1)

    def on_image(path: Path) -> None:
        if (number := next(numbers)) % _TELL_EVERY == 0:
            click.echo(f"\r{number} images read", nl=False, err=True)

    yield on_image
    click.echo("\r\x1b[K", nl=False, err=True)


def _load(ctx: click.Context, request: Request, folder: str | None) -> Loaded:
    """Load the options; a first word that is an option, and no folder, is taken as such."""
    if folder is not None:
        is_option = "=" in folder and not Path(folder).exists()
        flags = {} if is_option else {"data.path": (folder, "DIR")}
        overrides = (folder, *request.overrides) if is_option else request.overrides
        request = replace(request, flags={**request.flags, **flags}, overrides=overrides)
    return load_request(ctx, request)


def _prepare(loaded: Loaded, registry: Registry) -> tuple[CoreOptions, RunFacts]:
    """Fill in the resolution, and gather what is known of the run; a model is opened only where one was given."""
    from sdtune.data.check.looking import run_facts
    from sdtune.data.sources.kohya_options import expand_dataset_file

    options, _ = expand_dataset_file(loaded.options)
    if loaded.origins["model.path"] != "default":
        from sdtune.train.assembly.assembling import open_base, with_native_resolution

        model = open_base(options, registry)
        options = with_native_resolution(options, model)
        return options, run_facts(options, model)
    if options.data.resolution is None:
        data = options.data.model_copy(update={"resolution": _USUAL_PX})
        options = options.model_copy(update={"data": data})
    return options, run_facts(options)
