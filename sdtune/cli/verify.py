"""`sdtune verify`: what other programs make of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from sdtune.config.kinds import Consumer
from sdtune.errors import ModelError

if TYPE_CHECKING:
    from sdtune.export.certificate import Certificate
    from sdtune.plugins import Registry


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", required=True, metavar="PATH", help="The base model: a single file, a folder, or `demo`.")
@click.option(
    "--for",
    "consumers",
    multiple=True,
    type=click.Choice(get_args(Consumer)),
    help="A program the file must work in; several are allowed. Without it: all that know such files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def verify(ctx: click.Context, file: Path, model: str, consumers: tuple[Consumer, ...], as_json: bool) -> None:
    """Read FILE as A1111, Forge, ComfyUI, kohya's scripts and diffusers do, and compare its effect on a base model.

    \b
    sdtune verify dog.safetensors --model v1-5-pruned.safetensors
    sdtune verify dog.safetensors --model v1-5-pruned.safetensors --for a1111 --for comfyui

    The effect is compared with that of the file as it was meant. The exit code is 4 when a program does otherwise.
    """  # noqa: D301  # click reads the character
    certificate = _certify(file, model, consumers, ctx.find_root().obj)
    facts = {"effect": certificate.effect, "programs": certificate.report(file.name)}
    click.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else certificate.render())
    for warning in certificate.warnings():
        click.echo(f"warning: {warning}", err=True)
    certificate.raise_beside_table()
    if all(row.unsupported for row in certificate.rows):
        raise ModelError(f"no program that was asked can use {file.name}", hint="the table tells why")


def _certify(file: Path, path: str, consumers: tuple[Consumer, ...], registry: Registry) -> Certificate:
    from sdtune.config.model import ModelOptions
    from sdtune.errors import ConfigError
    from sdtune.export.certificate import FAMILIES, READABLE, certify
    from sdtune.export.probe import Probe
    from sdtune.formats.consumers.reading import open_file
    from sdtune.formats.verifiable import VERIFIED, examine
    from sdtune.models.open import open_model
    from sdtune.train.machine.device import DTYPES, choose_device

    if file.suffix not in READABLE and file.is_file():
        raise ConfigError(
            f"{file} is no file that can be verified", hint=f"it must end in {' or '.join(sorted(READABLE))}"
        )
    facts = examine(file)
    kind, device = VERIFIED[facts.kind], choose_device()
    dtype = DTYPES["fp32" if device.type == "cpu" else "bf16"]
    base = open_model(ModelOptions(path=path), dtype=dtype, device=device, registry=registry)
    if base.family not in FAMILIES:
        raise ModelError(f"what other programs do with files of {base.family} is not known here")
    if facts.family not in (None, base.family):
        raise ModelError(
            f"{file.name} is for {facts.family}, and {path} is {base.family}",
            hint="give its own base model with --model",
        )
    word = f" of {file.stem}" if kind == "embedding" else ""
    probe = Probe(captions=(f"a picture{word}", "a photo of a person"), has_vae=kind == "checkpoint")
    for part in probe.parts:
        base.load(part)
    return certify([open_file(file, kind)], base, probe, trained=None, chosen=consumers)
