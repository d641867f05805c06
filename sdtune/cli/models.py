"""The commands about models: what there is, and where the tokenizer comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sdtune.models.open import Families

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ANY = click.Path(exists=True, path_type=Path)


@click.group()
def models() -> None:
    """List models, and find or fetch CLIP's tokenizer."""


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


@models.command()
@click.option("--from-wheel", type=FILE, help="Take the vocabulary out of a downloaded wheel of open-clip-torch.")
@click.option("--dir", "folder", type=FOLDER, help="Keep a copy of the tokenizer in this folder.")
@click.option("--for", "model", type=ANY, help="Also look beside this model, and in the webui it lies in.")
def tokenizer(from_wheel: Path | None, folder: Path | None, model: Path | None) -> None:
    """Tell which CLIP tokenizer is used, after fetching it if there is none.

    Webui's single files hold no tokenizer. It is looked for beside the model, in the webui around it, in the caches
    of sdtune and of the Hugging Face hub; then it is downloaded once (1.4 MB, as published with open-clip-torch).
    """
    from sdtune.errors import ConfigError
    from sdtune.models import tokenizer as search
    from sdtune.models import vocabulary

    if from_wheel and folder:
        raise ConfigError("--from-wheel and --dir exclude each other", hint="give one of them")
    if from_wheel:
        place = vocabulary.keep_from_wheel(from_wheel)
    elif folder:
        place = search.keep_folder(folder)
    else:
        place = search.find_tokenizer(model, say=lambda line: click.echo(line, err=True))
    click.echo(f"tokenizer: {place} ({len(search.load_tokenizer(place)):,} tokens)")
