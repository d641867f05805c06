"""`sdtune export`: bring a run's file to where other programs look for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.export.folders import UI

_DONE = {"new": "wrote", "same": "already there", "differs": "replaced"}
_PLANNED = {"new": "would write", "same": "already there", "differs": "would replace, with --overwrite"}


@click.command()
@click.argument("run")
@click.option("--to", type=click.Choice(["webui", "comfyui"]), help="A1111 or Forge (webui), or ComfyUI.")
@click.option("--webui-dir", type=click.Path(path_type=Path), help="Folder of A1111 or Forge.")
@click.option("--comfyui-dir", type=click.Path(path_type=Path), help="Folder of ComfyUI.")
@click.option("--name", help="Name of the file there, and in the prompt.  [default: the run's name]")
@click.option("--create", is_flag=True, help="Make the folder when it is not there.")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--dry-run", is_flag=True, help="Tell what would be written, and write nothing.")
def export(
    run: str,
    to: UI | None,
    webui_dir: Path | None,
    comfyui_dir: Path | None,
    name: str | None,
    create: bool,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Copy the file of RUN, a run's folder or its name under runs/, into the folders of a webui.

    \b
    sdtune export runs/dog --to webui --webui-dir ~/stable-diffusion-webui
    sdtune export dog --to comfyui --comfyui-dir ~/ComfyUI --name corgi
    """  # noqa: D301  # click reads the character
    from sdtune.export.deliver import carry_out, plan_delivery

    ui, root = _choose_ui(to, {"webui": webui_dir, "comfyui": comfyui_dir})
    delivery = plan_delivery(_find_run(run), to=ui, root=root, name=name, create=create)
    if not dry_run:
        carry_out(delivery, overwrite=overwrite)
    for file in delivery.files:
        click.echo(f"{(_PLANNED if dry_run else _DONE)[file.state]}: {file.target}")
    click.echo(delivery.usage)


def _choose_ui(to: UI | None, roots: dict[UI, Path | None]) -> tuple[UI, Path]:
    given = [ui for ui, root in roots.items() if root is not None]
    if to is None and len(given) != 1:
        raise ConfigError("which program is the file for?", hint="give --to webui or --to comfyui")
    ui = to or given[0]
    root = roots[ui]
    if root is None:
        raise ConfigError(f"where is {ui}?", hint=f"give its folder: --{ui}-dir DIR")
    return ui, root.expanduser()


def _find_run(run: str) -> Path:
    path = Path(run)
    return path if path.exists() else Path("runs") / run
