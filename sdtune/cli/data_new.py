"""`sdtune data new`: the folders of a new data set."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

FOLDERS = ("img", "log", "model")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def new(folder: Path) -> None:
    r"""Make DIR with the folders img, log and model.

    \b
    sdtune data new my-dog
    """
    from sdtune.errors import ConfigError, PlatformError

    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"{folder} is there already", hint="choose another name")
    try:
        for name in FOLDERS:
            (folder / name).mkdir(parents=True)
    except OSError as error:
        raise PlatformError(
            f"cannot make {folder}: {error.strerror}", hint="check the path and its permissions"
        ) from error
    images = folder / FOLDERS[0]
    click.echo(f"made: {', '.join(str(folder / name) for name in FOLDERS)}")
    click.echo(
        f"next: put images into {images / '10_zwx dog'} (10 repeats; zwx calls the subject, a dog is what it is),"
    )
    click.echo("      each with a caption beside it: 01.jpg and 01.txt")
    click.echo(f"then: sdtune data check {shlex.quote(str(images))}")
