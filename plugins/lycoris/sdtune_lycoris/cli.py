"""The command `sdtune dylora`."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("dylora")
def dylora_command() -> None:
    """Work on DyLoRA files."""


@dylora_command.command("cut")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("rank", type=int)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The new file, or a folder for it; default: NAME-0008.safetensors.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file of that name.")
def cut_command(file: Path, rank: int, output: Path | None, overwrite: bool) -> None:
    """Write the LoRA of the first RANK ranks of FILE."""
    from sdtune_lycoris.cut import cut_file

    click.echo(cut_file(file, rank, output, overwrite=overwrite))
