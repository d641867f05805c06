"""`sdtune hypernet`: make a hypernetwork to train from, or look into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from sdtune_hypernetwork.config import Initialisation

if TYPE_CHECKING:
    from sdtune_hypernetwork.config import HypernetworkOptions

_NOT_IN_NAMES = '/\\:*?"<>|'
SD1_SIZES = "768,320,640,1280"
INITIALISATIONS = get_args(Initialisation)


@click.group()
def hypernet() -> None:
    """Make a hypernetwork to train from, or look into one."""


@hypernet.command()
@click.argument("name")
@click.option("--sizes", default=SD1_SIZES, show_default="SD1's: " + SD1_SIZES, help="Widths of contexts.")
@click.option("--structure", default="1,2,1", show_default=True, help="Widths of layers as factors.")
@click.option("--activation", default="linear", show_default=True, help="Function between layers, by webui's name.")
@click.option("--activate-output", is_flag=True, help="Apply it after the last layer too.")
@click.option("--init", type=click.Choice(INITIALISATIONS), default=INITIALISATIONS[0], show_default=True)
@click.option("--layer-norm", is_flag=True, help="A LayerNorm after each layer.")
@click.option("--dropout", help="Chance of dropout behind each layer, e.g. 0,0.1,0.  [default: none]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=".", help="Folder.  [default: the current one]")
@click.option("--overwrite", is_flag=True, help="Replace a file that is there.")
def create(*, name: str, seed: int, output: Path, overwrite: bool, **given: Any) -> None:
    """Write the hypernetwork NAME.pt, to be trained from with `hypernetwork.from_file`."""
    from sdtune.api import ConfigError, write_artifact
    from sdtune_hypernetwork.files import Facts, make_artifact
    from sdtune_hypernetwork.network import Form, Hypernetwork

    if not name.strip(". ") or any(character in name for character in _NOT_IN_NAMES):
        raise ConfigError(f"NAME must be a file's name; it is {name!r}", hint=f"leave out {_NOT_IN_NAMES}")
    options = _check(given)
    made = Hypernetwork(options.sizes or (), Form.from_options(options))
    made.reset(options.init, seed)
    artifact = make_artifact(made, Facts(name=name, init=options.init), stem=name, keep_dropout=True)
    click.echo(write_artifact(artifact, None, output, dtype="fp32", overwrite=overwrite))


@hypernet.command()
@click.argument("file", type=click.Path(path_type=Path))
def show(file: Path) -> None:
    """Tell what a hypernetwork FILE holds."""
    from sdtune_hypernetwork.files import explain_comfyui, read_hypernetwork

    hypernetwork, facts = read_hypernetwork(file)
    form = hypernetwork.form
    lines = {
        "name": facts.name,
        "sizes": _join(hypernetwork.sizes),
        "structure": _join(form.structure),
        "activation": f"{form.activation}{', also of the output' if form.activate_output else ''}",
        "layer norm": "yes" if form.layer_norm else "no",
        "dropout": _join(form.dropout) if any(form.dropout) else "none",
        "init": facts.init,
        "weights": f"{sum(parameter.numel() for parameter in hypernetwork.parameters()):,}",
        "step": str(facts.step),
        "model": f"{facts.base_name or 'not told'} {facts.base_hash}".rstrip(),
        "info": facts.info or "none",
        "ComfyUI": explain_comfyui(form) or "as in webui",
    }
    for label, text in lines.items():
        click.echo(f"{label:<12}{text}")


def _join(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _check(given: dict[str, Any]) -> HypernetworkOptions:
    from pydantic import ValidationError

    from sdtune.api import ConfigError
    from sdtune_hypernetwork.config import HypernetworkOptions

    try:
        return HypernetworkOptions(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}: " if first["loc"] else ""
        raise ConfigError(f"{option}{first['msg'].removeprefix('Value error, ')}") from None
