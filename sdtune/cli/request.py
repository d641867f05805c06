"""What commands that are told of a run have in common: their words, and the options that these make."""

from __future__ import annotations

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
    from sdtune.train.saving.resume import find_place

    try:
        method = find_place(name)[0].read_facts().get("method")
    except ConfigError:
        return None
    return method if isinstance(method, str) else None


def _method_flags(ctx: click.Context) -> list[click.Parameter]:
    name = ctx.meta.get("sdtune.method")
    if not name or ctx.obj is None:
        return []
    owners = _flag_owners(chosen_registry(ctx).method(name))
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


def chosen_registry(ctx: click.Context) -> Registry:
    """Give the registry of this call of sdtune."""
    registry: Registry = ctx.find_root().obj
    return registry


def _parameter(flag: str) -> str:
    return f"flag_{flag.replace('-', '_')}"


def common_flags(*without: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the flags of a run, `--method`, `--config` and `a.b=c`.

    Args:
        without: Flags that it has no use for.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for flag, (_, text) in reversed(list(_FLAGS.items())):
            if flag not in without:
                function = click.option(f"--{flag}", _parameter(flag), metavar="VALUE", help=text)(function)
        method_help = "How to train; `sdtune plugins` lists the methods."
        function = click.option("--method", metavar="NAME", help=method_help)(function)
        path = click.Path(path_type=Path)
        function = click.option("--config", type=path, metavar="FILE", help="Options from a YAML file.")(function)
        return click.argument("overrides", nargs=-1, metavar="[OPTION=VALUE]...")(function)

    return decorate


def make_request(ctx: click.Context, given: Mapping[str, Any]) -> Request:
    """Gather what was asked for from the parameters that click has parsed."""
    flags = {
        option: (given[_parameter(flag)], f"--{flag}")
        for flag, (option, _) in _FLAGS.items()
        if given.get(_parameter(flag)) is not None
    }
    if name := ctx.meta.get("sdtune.method"):
        spec = chosen_registry(ctx).method(name)
        if given["method"] is not None:
            flags["method"] = (spec.name, "--method")
        for flag, owner in _flag_owners(spec).items():
            if given.get(f"method_{flag}") is not None:
                flags[f"{owner.name}.{flag}"] = (given[f"method_{flag}"], f"--{flag.replace('_', '-')}")
        for flag in spec.flags:  # a common flag that the method, alone, has an option of its own for
            if flag in _FLAGS and _FLAGS[flag][0] in flags:
                flags[f"{spec.name}.{flag}"] = flags.pop(_FLAGS[flag][0])
    return Request(config=given["config"], flags=flags, overrides=given["overrides"])


def settings_of(request: Request) -> list[Setting]:
    """Give the flags as settings of options."""
    from sdtune.config.overrides import Setting

    return [Setting(option=option, value=text, flag=flag) for option, (text, flag) in request.flags.items()]


def load_request(ctx: click.Context, request: Request) -> Loaded:
    """Load the options; `--data demo` brings its own.

    Raises:
        ConfigError: With every problem there is.
    """
    from sdtune.config.compose import load

    flags = settings_of(request)
    loaded = load(chosen_registry(ctx), request.config, flags=flags, overrides=request.overrides)
    if loaded.options.data.path != Path("demo"):
        return loaded
    from sdtune.demo.images import demo_settings, with_demo_images

    overrides = [*demo_settings(loaded), *request.overrides]
    return with_demo_images(load(chosen_registry(ctx), request.config, flags=flags, overrides=overrides))
