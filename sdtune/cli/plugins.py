"""`sdtune plugins` and `sdtune methods`: what there is, and where it comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.text import Text

    from sdtune.loader import Plugin
    from sdtune.plugins import Registry
    from sdtune.specs import FamilySpec, MethodSpec, TaggerSpec

STATE_STYLES = {"ready": "green", "broken": "red", "disabled": "dim"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def plugins(registry: Registry, as_json: bool) -> None:
    """List the plugins that were found, also broken and disabled ones."""
    found = registry.report()
    if as_json:
        click.echo(json.dumps([_as_dict(plugin) for plugin in found], indent=2, ensure_ascii=False))
        return
    _print_table(("plugin", "provider", "version", "state", "import", "brings"), map(_plugin_row, found))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def methods(registry: Registry, as_json: bool) -> None:
    """List the methods there are."""
    specs = registry.methods().values()
    if as_json:
        click.echo(json.dumps([_method_as_dict(spec) for spec in specs], indent=2, ensure_ascii=False))
        return
    _print_table(("method", "also", "models", "what it does"), map(_method_row, specs))


def _as_dict(plugin: Plugin) -> dict[str, object]:
    return {
        "name": plugin.name,
        "provider": plugin.provider,
        "version": plugin.version,
        "state": plugin.state,
        "problem": plugin.problem,
        "import_s": round(plugin.import_s, 4),
        "methods": [spec.name for spec in plugin.methods],
        "families": [spec.name for spec in plugin.families],
        "taggers": [spec.name for spec in plugin.taggers],
    }


def _method_as_dict(spec: MethodSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "families": sorted(spec.families) if spec.families is not None else None,
        "summary": spec.summary,
    }


def _plugin_row(plugin: Plugin) -> Sequence[str | Text]:
    from rich.text import Text

    specs: tuple[MethodSpec | FamilySpec | TaggerSpec, ...] = (*plugin.methods, *plugin.families, *plugin.taggers)
    brings = ", ".join(spec.name for spec in specs)
    duration = Text(f"{plugin.import_s * 1000:.0f} ms", style="yellow" if plugin.is_slow else "")
    state = Text(plugin.state, style=STATE_STYLES[plugin.state])
    return plugin.name, plugin.provider, plugin.version, state, duration, plugin.problem or brings


def _method_row(spec: MethodSpec) -> Sequence[str | Text]:
    families = ", ".join(sorted(spec.families)) if spec.families is not None else "all"
    return spec.name, ", ".join(spec.aliases), families, spec.summary


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    Console().print(table)
