"""The command that tells which models there are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sdtune.models.open import Families


@click.group()
def models() -> None:
    """List models."""


@models.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def list_models(registry: Families, as_json: bool) -> None:
    """List the model that comes with sdtune, and the families that can be trained."""
    demo = _demo_folder()
    families = registry.families().values()
    if as_json:
        listing = [{"name": spec.name, "summary": spec.summary} for spec in families]
        click.echo(json.dumps({"demo": demo, "families": listing}, indent=2))
        return
    click.echo(f"demo  a small model for trying things out ({demo or 'not in this installation'})")
    click.echo("PATH  a single file (.safetensors, .ckpt), a diffusers folder, or a hub id, of one of these families:")
    for spec in families:
        click.echo(f"      {spec.name:<8}{spec.summary}")


def _demo_folder() -> str | None:
    from sdtune.errors import ModelError
    from sdtune.models.open import demo_folder

    try:
        return str(demo_folder())
    except ModelError:
        return None
