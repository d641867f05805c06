"""`sdtune inspect`: what a file is, what is in it, and which programs read it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_LABEL, _WIDTH = 16, 100


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--weights", is_flag=True, help="Also read the weights: numbers that are not finite, and strength.")
@click.option("--hash", "hashes", is_flag=True, help="Also hash the whole file (SHA-256).")
@click.option("--keys", is_flag=True, help="Also list all tensors.")
def inspect(file: Path, as_json: bool, weights: bool, hashes: bool, keys: bool) -> None:
    """Tell what FILE is: an adapter, an embedding, a model or a part of one, a folder, or a run.

    \b
    sdtune inspect dog.safetensors
    sdtune inspect dog.safetensors --json --weights
    sdtune inspect runs/dog
    """  # noqa: D301  # click reads the character
    from sdtune.formats.describe.document import describe
    from sdtune.formats.recognize import recognize

    documents = [describe(recognize(path), weights=weights, hashes=hashes, keys=keys) for path in _files(file)]
    if as_json:
        click.echo(json.dumps(documents[0] if not _is_run(file) else documents, indent=2, ensure_ascii=False))
        return
    for index, document in enumerate(documents):
        if index:
            click.echo()
        _print_document(document)


def _is_run(path: Path) -> bool:
    return path.is_dir() and (path / "run.json").is_file()


def _files(path: Path) -> list[Path]:
    """List what to look at: a run's exported files, or the path itself."""
    from sdtune.errors import ModelError

    if not _is_run(path):
        return [path]
    found = sorted(inner for inner in (path / "exports").glob("*") if _may_hold_weights(inner))
    if not found:
        raise ModelError(f"the run {path} has exported nothing", hint="look at its state in run.json, or resume it")
    return found


def _may_hold_weights(path: Path) -> bool:
    return path.is_dir() or path.suffix in {".safetensors", ".pt"}


def _print_document(document: Mapping[str, Any]) -> None:
    from sdtune.formats.describe.lines import to_rows

    _print_rows(to_rows(document))
    if "keys" in document:
        click.echo()
        for name, (dtype, *shape) in document["keys"].items():
            click.echo(f"{_printable(name)}  {dtype} {'x'.join(map(str, shape)) or 'scalar'}")


def _print_rows(rows: Iterable[tuple[str, str]]) -> None:
    is_colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for label, text in rows:
        shown = click.style(f"{label:<{_LABEL}}", dim=True) if is_colored else f"{label:<{_LABEL}}"
        lines = textwrap.wrap(_printable(text), _WIDTH - _LABEL) or [""]
        click.echo(f"{shown}{lines[0]}".rstrip(), color=is_colored)
        for line in lines[1:]:
            click.echo(f"{'':<{_LABEL}}{line}")


def _printable(text: str) -> str:
    """Show control characters of a file's own words instead of sending them to the terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
