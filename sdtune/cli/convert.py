"""`sdtune convert`: the same adapter, embedding or model in the form of another program."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.formats.outputs import Conversion

PATH = click.Path(path_type=Path)
_FORMS = ("webui", "kohya", "diffusers", "hcp", "folder")


@click.command()
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option("--to", type=click.Choice(_FORMS), help="Whose form.  [default: told by TARGET]")
@click.option("--dtype", type=click.Choice(("fp16", "bf16", "fp32")), help="Precision.  [default: as stored]")
@click.option("--text-encoder", type=PATH, help="HCP-Diffusion's file of the text encoder; SOURCE is that of the UNet.")
@click.option("--family", type=click.Choice(("sd1", "sd2", "sdxl")), help="Family, where SOURCE does not tell.")
@click.option("--keep-alpha", is_flag=True, help="To diffusers: alpha in the metadata, not multiplied in.")
@click.option("--auto-scale-alpha", is_flag=True, help="Known from HCP-Diffusion; here alpha is always converted.")
@click.option("--tokenizer", type=PATH, help="A tokenizer for the diffusers folder.  [default: CLIP's]")
@click.option("--overwrite", is_flag=True, help="Replace files that are there.")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and write nothing.")
@click.pass_context
def convert(
    ctx: click.Context,
    /,
    source: Path,
    target: Path,
    text_encoder: Path | None,
    overwrite: bool,
    dry_run: bool,
    **given: Any,
) -> None:
    """Write SOURCE (an adapter, an embedding or a model) to TARGET in the form of another program.

    \b
    sdtune convert dog.safetensors dog-diffusers.safetensors --to diffusers
    sdtune convert unet-1000.safetensors dog.safetensors --text-encoder text_encoder-1000.safetensors
    sdtune convert word.pt word.safetensors
    sdtune convert model.safetensors model-folder
    """  # noqa: D301  # click reads the character
    from sdtune.formats import convert as formats
    from sdtune.formats.outputs import Request
    from sdtune.formats.recognize import recognize

    request = Request(
        source=recognize(source.expanduser()),
        target=target.expanduser(),
        to=given["to"],
        dtype=given["dtype"],
        second=recognize(text_encoder.expanduser()) if text_encoder else None,
        family=given["family"],
        keeps_alpha=given["keep_alpha"],
        tokenizer=given["tokenizer"],
        registry=ctx.find_root().obj,
    )
    conversion = formats.convert(request)
    _check_targets(conversion, overwrite=overwrite)
    for line in conversion.lines:
        click.echo(line)
    if given["auto_scale_alpha"]:
        click.echo("--auto-scale-alpha changes nothing: alpha is always converted, and the effect stays the same")
    for output in conversion.outputs:
        if not dry_run:
            _write(output, overwrite=overwrite)
        click.echo(f"{'would write' if dry_run else 'wrote'}: {output.path}")


def _check_targets(conversion: Conversion, *, overwrite: bool) -> None:
    for output in conversion.outputs:
        if os.path.lexists(output.path) and not overwrite:
            raise ConfigError(f"{output.path} exists", hint="choose another name, or --overwrite to replace it")


def _write(output: Any, *, overwrite: bool) -> None:
    from sdtune.export.pickled import encode_pickled
    from sdtune.export.writer import write_folder, write_tensors
    from sdtune.files import write_bytes
    from sdtune.formats.outputs import BytesOutput, FolderOutput, PickledOutput, TensorsOutput

    match output:
        case TensorsOutput():
            write_tensors(output.path, output.tensors, output.metadata, overwrite=overwrite)
        case PickledOutput():
            write_bytes(output.path, encode_pickled(output.content), overwrite=overwrite)
        case BytesOutput():
            write_bytes(output.path, output.content, overwrite=overwrite)
        case FolderOutput():
            write_folder(output.path, output.files, overwrite=overwrite)
