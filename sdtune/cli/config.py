"""`sdtune config`: look at, check and begin configuration files."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sdtune.config.compose import Loaded, MethodRegistry, compose_schema, load
from sdtune.config.describe import OptionDoc, OptionTree, describe
from sdtune.config.dump import leaves, to_dict, write_flow
from sdtune.config.overrides import Setting, is_override
from sdtune.config.reference import template
from sdtune.config.schema import CoreOptions
from sdtune.errors import ConfigError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WORDS = click.argument("words", nargs=-1, metavar="[FILE] [NAME=VALUE]...")
_METHOD = click.option("--method", metavar="NAME", help="How to train; `sdtune plugins` lists the methods.")


@click.group()
def config() -> None:
    """Look at, check and begin configuration files."""


@config.command()
@_WORDS
@_METHOD
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.pass_obj
def show(registry: MethodRegistry, words: tuple[str, ...], method: str | None, as_json: bool) -> None:
    """Show every option's value, and where it comes from."""
    loaded = _load(registry, words, method)
    values = {".".join(path): value for path, value in leaves(to_dict(loaded.options))}
    if as_json:
        rows = {name: {"value": value, "origin": loaded.origins[name]} for name, value in values.items()}
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    lines = {name: f"{name} = {write_flow(value)}" for name, value in values.items()}
    width = min(60, max(map(len, lines.values())))
    for name, line in lines.items():
        click.echo(f"{line:<{width}}  {loaded.origins[name]}")


@config.command()
@click.argument("words", nargs=-1, metavar="FILE [NAME=VALUE]...", required=True)
@_METHOD
@click.pass_obj
def check(registry: MethodRegistry, words: tuple[str, ...], method: str | None) -> None:
    """Check a file, and tell all its problems."""
    loaded = _load(registry, words, method)
    click.echo(f"No problems: a run of {loaded.spec.name}.")


@config.command()
@click.argument("name", required=False)
@click.pass_obj
def explain(registry: MethodRegistry, name: str | None) -> None:
    """Explain an option, a section, or everything."""
    options = _all_options(registry)
    for doc in _below(options, name) if name else options:
        click.echo(_explanation(doc))


@config.command()
@click.option("--method", default="", metavar="NAME", help="Method of the run.")
@click.pass_obj
def schema(registry: MethodRegistry, method: str) -> None:
    """Write the JSON schema of a run, for editors."""
    click.echo(json.dumps(compose_schema(registry.method(method)).model_json_schema(), indent=2))


@config.command()
@click.option("--method", default="", metavar="NAME", help="Method of the run.")
@click.option("--level", type=click.Choice(["novice", "expert"]), default="novice", show_default=True, help="How much.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write; it must not exist.")
@click.pass_obj
def new(registry: MethodRegistry, method: str, level: Literal["novice", "expert"], output: Path | None) -> None:
    """Write a commented file to start from."""
    text = template(registry.method(method), level)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{output} exists", hint="give -o another name") from error
    except OSError as error:
        raise PlatformError(f"{output} cannot be written: {error.strerror}") from error
    click.echo(f"Wrote {output}; set data.path in it, then: sdtune train --config {output}")


def _load(registry: MethodRegistry, words: Sequence[str], method: str | None) -> Loaded:
    overrides = [word for word in words if is_override(word)]
    files = [Path(word) for word in words if not is_override(word)]
    if len(files) > 1:
        raise ConfigError(f"expected one file, got {', '.join(map(str, files))}", hint="options are NAME=VALUE")
    flags = [Setting(option="method", value=method, flag="--method")] if method else []
    return load(registry, files[0] if files else None, flags=flags, overrides=overrides)


def _all_options(registry: MethodRegistry) -> OptionTree:
    options = describe(CoreOptions)
    for spec in registry.methods().values():
        options = options.including(describe(compose_schema(spec)))
    return options


def _below(options: OptionTree, name: str) -> list[OptionDoc]:
    path = tuple(name.split("."))
    doc = options.find(path)
    if doc is None:
        meant = options.suggest(path)
        raise ConfigError(f"no option {name!r}", hint=f"did you mean {meant!r}?" if meant else "")
    return [doc, *options.below(path)]


def _explanation(doc: OptionDoc) -> str:
    default = "must be given" if doc.is_required else f"default {write_flow(doc.default)}"
    facts = doc.takes if doc.is_section and "array" not in doc.kinds else f"{doc.takes}; {default}"
    description = textwrap.indent(doc.description, "    ")
    return f"{doc.name}  ({facts})\n{description}"
