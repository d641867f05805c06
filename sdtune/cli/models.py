"""The commands about models: what there is, and where the tokenizer comes from."""

from __future__ import annotations

from pathlib import Path

import click

from sdtune.plugins import Registry


@click.group()
def models() -> None:
    """List models, and find or fetch CLIP's tokenizer."""


@models.command("list")
@click.pass_obj
def list_models(registry: Registry) -> None:
    """List the model that comes with sdtune, and the families that can be trained."""
    from sdtune.errors import ModelError
    from sdtune.models.open import demo_folder

    try:
        place = str(demo_folder())
    except ModelError:
        place = "not in this installation"
    click.echo(f"demo      a small model trained for trying things out ({place})")
    click.echo("FILE      a webui single file (.safetensors), or a diffusers folder, of one of these families:")
    for spec in registry.families().values():
        click.echo(f"  {spec.name:<8}{spec.summary}")


@models.command()
@click.option("--from-wheel", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Take the vocabulary out of a downloaded wheel of open-clip-torch.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Keep a copy of the tokenizer in this folder (vocab.json and merges.txt).")  # fmt: skip
@click.option("--for", "model", type=click.Path(exists=True, path_type=Path), help="Also look beside this model.")
def tokenizer(from_wheel: Path | None, folder: Path | None, model: Path | None) -> None:
    """Tell which CLIP tokenizer is used, after fetching it if there is none.

    Webui's single files hold no tokenizer. It is looked for beside the model, in the webui around it, in the caches
    of sdtune and of the Hugging Face hub; then it is downloaded once (1.4 MB, published with open-clip-torch).
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
        place = search.find_tokenizer(model or Path.cwd() / "model", say=lambda line: click.echo(line, err=True))
    click.echo(f"tokenizer: {place} ({len(search.load_tokenizer(place)):,} tokens)")
