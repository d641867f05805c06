"""`sdtune train` and `sdtune plan`: from options to a run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdtune.config.compose import Loaded
    from sdtune.config.overrides import Setting
    from sdtune.plugins import Registry
    from sdtune.specs import MethodSpec
    from sdtune.train.plan import Plan
    from sdtune.train.resume import Given

_FLAGS: Mapping[str, tuple[str, str]] = {
    "model": ("model.path", "Base model: a .safetensors or .ckpt file, a diffusers folder, a hub id, or `demo`."),
    "data": (
        "data.path",
        "Folder of images, or of N_name folders; `demo`: drawings with their settings.",
    ),
    "output": ("output.dir", "Folder for the run; default runs/NAME."),
    "webui-dir": ("output.webui_dir", "Folder of A1111 or Forge that gets the finished file."),
    "comfyui-dir": ("output.comfyui_dir", "Folder of ComfyUI that gets the finished file."),
    "name": ("output.name", "Name of the run and of its file."),
    "steps": ("train.steps", "Optimizer steps."),
    "epochs": ("train.epochs", "Epochs, instead of steps."),
    "lr": ("train.lr", "Learning rate."),
    "batch-size": ("train.batch_size", "Images in one batch."),
    "resolution": ("data.resolution", "Side in px, or WIDTHxHEIGHT; default the model's own."),
    "precision": ("train.precision", "auto, fp32, bf16 or fp16."),
    "seed": ("train.seed", "Seed of every random draw."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for on the command line.

    Attributes:
        config: A configuration file.
        flags: Dotted option to (text, the flag it came from).
        overrides: Positional `a.b=c`.
    """

    config: Path | None
    flags: Mapping[str, tuple[str, str]]
    overrides: tuple[str, ...]


class MethodCommand(click.Command):
    """A command that also takes the chosen method's own flags."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Find `--method` first, so that its flags are known to the parser and to the help."""
        ctx.meta["sdtune.method"] = _peek(args, "--method") or _method_of_run(_peek(args, "--resume"))
        return super().parse_args(ctx, args)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Give the common flags and those of the method."""
        return [*super().get_params(ctx), *_method_flags(ctx)]


def _peek(args: list[str], flag: str) -> str | None:
    for position, word in enumerate(args):
        if word == flag and position + 1 < len(args):
            return args[position + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def _method_of_run(name: str | None) -> str | None:
    """Give the method of a run that is to go on, so that its flags are known; the run itself is looked at later."""
    if name is None:
        return None
    from sdtune.train.resume import find_place

    try:
        method = find_place(name)[0].read_facts().get("method")
    except ConfigError:
        return None
    return method if isinstance(method, str) else None


def _method_flags(ctx: click.Context) -> list[click.Parameter]:
    name = ctx.meta.get("sdtune.method")
    if not name or ctx.obj is None:
        return []
    owners = _flag_owners(_registry(ctx).method(name))
    return [
        click.Option(
            [f"--{flag.replace('_', '-')}", f"method_{flag}"],
            metavar="VALUE",
            help=f"[{spec.name}] {spec.config.model_fields[flag].description}",
        )
        for flag, spec in owners.items()
    ]


def _flag_owners(spec: MethodSpec) -> dict[str, MethodSpec]:
    """Map each flag to the method it belongs to: of several with one flag, the one named first."""
    taken = {*_FLAGS, "method", "config", "resume", "fit"}
    owned = [(flag, part) for part in reversed(spec.sections) for flag in part.flags if flag not in taken]
    return dict(owned)


def _registry(ctx: click.Context) -> Registry:
    registry: Registry = ctx.find_root().obj
    return registry


def _parameter(flag: str) -> str:
    return f"flag_{flag.replace('-', '_')}"


def _common_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    for flag, (_, text) in reversed(list(_FLAGS.items())):
        function = click.option(f"--{flag}", _parameter(flag), metavar="VALUE", help=text)(function)
    function = click.option("--method", metavar="NAME", help="How to train; `sdtune plugins` lists the methods.")(
        function
    )
    function = click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help="Options from a YAML file."
    )(function)
    return click.argument("overrides", nargs=-1, metavar="[OPTION=VALUE]...")(function)


_fit_option = click.option(
    "--fit", metavar="SIZE", help="Choose settings with which the run fits into so much memory, e.g. 8GB."
)


@click.command(cls=MethodCommand)
@_common_flags
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
    request = _request(ctx, given)
    if resume is not None:
        if overwrite:
            raise ConfigError("--overwrite starts anew, --resume goes on", hint="give one of them")
        if fit is not None:
            raise ConfigError("--fit chooses settings of a new run, --resume goes on", hint="give one of them")
        from sdtune.train.resume import Given

        together = Given(
            file=request.config,
            flags=_settings(request),
            overrides=request.overrides,
            extend=extend,
            accept_changes=accept_changes,
        )
        _resume(ctx, resume, together, stop_after=stop_after, dry_run=dry_run)
        return
    if extend or accept_changes:
        raise ConfigError(f"--{'extend' if extend else 'accept-changes'} is for --resume", hint="add --resume RUN")
    loaded = _load(ctx, request)
    if dry_run:
        click.echo(_plan(ctx, loaded, fit).render())
        return
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.train.launch import start

    limit = _bytes(fit)
    start(loaded, _registry(ctx), ConsoleScreen(), stop_after=stop_after, overwrite=overwrite, fit_bytes=limit)


@click.command(cls=MethodCommand)
@_common_flags
@_fit_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def plan(ctx: click.Context, /, *, fit: str | None, as_json: bool, **given: Any) -> None:
    """Show what a run would do: images, steps, what is trained, what is written, what it takes."""
    made = _plan(ctx, _load(ctx, _request(ctx, given)), fit)
    click.echo(json.dumps(made.to_dict(), indent=1, ensure_ascii=False) if as_json else made.render())


def _plan(ctx: click.Context, loaded: Loaded, fit: str | None) -> Plan:
    from sdtune.train.fitting import prepare
    from sdtune.train.plan import make_plan
    from sdtune.train.ranks import Ranks
    from sdtune.train.run import run_folder

    _, run = prepare(loaded, _registry(ctx), run_folder(loaded.options), Ranks(), _bytes(fit))
    return make_plan(run)


def _bytes(fit: str | None) -> int | None:
    from sdtune.train.fitting import parse_size

    return None if fit is None else parse_size(fit)


def _request(ctx: click.Context, given: Mapping[str, Any]) -> Request:
    flags = {
        option: (given[_parameter(flag)], f"--{flag}")
        for flag, (option, _) in _FLAGS.items()
        if given[_parameter(flag)] is not None
    }
    if name := ctx.meta.get("sdtune.method"):
        spec = _registry(ctx).method(name)
        if given["method"] is not None:
            flags["method"] = (spec.name, "--method")
        for flag, owner in _flag_owners(spec).items():
            if given.get(f"method_{flag}") is not None:
                flags[f"{owner.name}.{flag}"] = (given[f"method_{flag}"], f"--{flag.replace('_', '-')}")
        for flag in spec.flags:  # a common flag that the method, alone, has an option of its own for
            if flag in _FLAGS and _FLAGS[flag][0] in flags:
                flags[f"{spec.name}.{flag}"] = flags.pop(_FLAGS[flag][0])
    return Request(config=given["config"], flags=flags, overrides=given["overrides"])


def _settings(request: Request) -> list[Setting]:
    from sdtune.config.overrides import Setting

    return [Setting(option=option, value=text, flag=flag) for option, (text, flag) in request.flags.items()]


def _load(ctx: click.Context, request: Request) -> Loaded:
    from sdtune.config.compose import load

    flags = _settings(request)
    loaded = load(_registry(ctx), request.config, flags=flags, overrides=request.overrides)
    if loaded.options.data.path != Path("demo"):
        return loaded
    from sdtune.demo.images import demo_settings, with_demo_images

    overrides = [*demo_settings(loaded), *request.overrides]
    return with_demo_images(load(_registry(ctx), request.config, flags=flags, overrides=overrides))


def _resume(ctx: click.Context, name: str, given: Given, *, stop_after: int | None, dry_run: bool) -> None:
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.train.launch import resume
    from sdtune.train.resume import plan_resumption

    resumption = plan_resumption(_registry(ctx), name, given)
    resume(resumption, _registry(ctx), ConsoleScreen(), stop_after=stop_after, is_dry=dry_run)
