"""`sdtune embedding`: make an embedding without training, or look into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdtune_textual_inversion.config import FORMATS

if TYPE_CHECKING:
    from sdtune_textual_inversion.config import EmbeddingFormat, TokenOptions


@click.group()
def embedding() -> None:
    """Make an embedding for a word of the prompt, or look into one."""


@embedding.command()
@click.argument("name")
@click.option("--model", default="demo", show_default=True, help="A .safetensors file, a diffusers folder, or `demo`.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Folder with vocab.json and merges.txt.")
@click.option("--init-text", default="*", show_default=True, help='Words to begin from; "" begins from zeros.')
@click.option("--vectors", type=click.IntRange(1, 75), default=1, show_default=True, help="Number of vectors.")
@click.option("--output", type=click.Path(path_type=Path), default=".", help="Folder.  [default: the current one]")
@click.option("--format", "form", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
@click.pass_context
def create(
    ctx: click.Context, /, name: str, *, form: EmbeddingFormat, output: Path, overwrite: bool, **given: Any
) -> None:
    """Write the embedding NAME, to be used as it is or trained from."""
    import torch

    from sdtune.api import Embedding, ModelOptions, open_model, write_artifact
    from sdtune_textual_inversion.files import make_artifact
    from sdtune_textual_inversion.method import initial_vectors

    token = _check(name, given["init_text"], given["vectors"])
    options = ModelOptions(path=given["model"], tokenizer=given["tokenizer"])
    registry = ctx.find_root().obj
    model = open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=registry)
    made = Embedding(name=name, vectors=initial_vectors(model, token), step=0, base_name=model.source.name)
    artifact = make_artifact(made, form, is_delivered=True)
    click.echo(write_artifact(artifact, None, output, dtype="fp32", overwrite=overwrite))


@embedding.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Tell what an embedding FILE holds."""
    from sdtune.api import read_embedding, webui_checksum

    found = read_embedding(file)
    click.echo(f"name      {found.name}")
    for encoder, vectors in found.vectors.items():
        norm = float(vectors.norm(dim=1).mean())
        click.echo(
            f"{encoder:<10}{len(vectors)} x {vectors.shape[1]}, mean norm {norm:.3f} [{webui_checksum(vectors)}]"
        )
    click.echo(f"step      {'not told' if found.step is None else found.step}")
    click.echo(f"model     {found.base_name or 'not told'} {found.base_hash}".rstrip())


def _check(name: str, init_text: str, vectors: int) -> TokenOptions:
    from pydantic import ValidationError

    from sdtune.api import ConfigError
    from sdtune_textual_inversion.config import TokenOptions

    try:
        return TokenOptions(name=name, init_text=init_text, vectors=vectors)
    except ValidationError as error:
        rule = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"NAME {rule}; it is {name!r}") from None
