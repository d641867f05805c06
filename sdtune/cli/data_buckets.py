"""`sdtune data buckets`: how each image is resized and cropped, before anything is trained."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sdtune.cli.request import MethodCommand, chosen_registry, common_flags, load_request, make_request
from sdtune.config.dump import DEFAULT
from sdtune.errors import ConfigError

if TYPE_CHECKING:
    from sdtune.config.compose import Loaded
    from sdtune.config.data import DataOptions
    from sdtune.config.schema import CoreOptions
    from sdtune.data.buckets.report import BucketReport
    from sdtune.plugins import Registry

DEMO = "demo"
USUAL_RESOLUTION = "512"
_NOT_OURS = ("output", "webui-dir", "comfyui-dir", "name", "steps", "epochs", "lr", "precision", "seed")


@click.command(cls=MethodCommand)
@common_flags(*_NOT_OURS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--picture", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw what of each image is kept and lost."
)
@click.option("--overwrite", is_flag=True, help="Replace the picture.")
@click.pass_context
def buckets(ctx: click.Context, /, *, as_json: bool, picture: Path | None, overwrite: bool, **given: Any) -> None:
    """Show how each image is resized and cropped: its bucket, how much it grows, and what is cut away.

    No model is needed. Without one, and without a resolution, it is 512.

    \b
    sdtune data buckets --data dog
    sdtune data buckets --data dog --resolution 1024 --picture dog.png
    sdtune data buckets --config run.yaml data.crop=focal
    """  # noqa: D301  # click reads the character
    if picture is not None and picture.suffix.lower() != ".png":
        raise ConfigError(f"--picture {picture} does not end with .png")
    options = _with_resolution(load_request(ctx, make_request(ctx, given)), chosen_registry(ctx))
    report = _report(options)
    if picture is not None:
        _draw(report, options.data, picture, overwrite=overwrite)
    from sdtune.data.buckets.report_table import to_document, to_lines

    click.echo(
        json.dumps(to_document(report), indent=1, ensure_ascii=False) if as_json else "\n".join(to_lines(report))
    )
    if picture is not None:
        click.echo(f"picture: {picture}", err=as_json)


def _with_resolution(loaded: Loaded, registry: Registry) -> CoreOptions:
    """Fill in the resolution of the model that was named, of which only headers are read, or the usual one."""
    options, path = loaded.options, loaded.tree.find(("data", "path"))
    if options.data.resolution is not None:
        return options
    is_demo = path is not None and path.value == DEMO  # images for the model that is there unasked
    if loaded.origins["model.path"] == DEFAULT and not is_demo:
        return options.model_copy(update={"data": options.data.model_copy(update={"resolution": USUAL_RESOLUTION})})
    from sdtune.train.assembly.assembling import open_base, with_native_resolution

    return with_native_resolution(options, open_base(options, registry))


def _report(options: CoreOptions) -> BucketReport:
    from sdtune.data.buckets.placing import place_images
    from sdtune.data.buckets.report import report_buckets
    from sdtune.data.index.building import build_index
    from sdtune.data.index.regularization import find_sources
    from sdtune.data.index.split import hold_out
    from sdtune.data.sources.kohya_options import expand_dataset_file

    options, _ = expand_dataset_file(options)
    sources = find_sources(options.regularization, options.data)
    index, _ = hold_out(build_index(options.data, sources), options.data, options.validation)
    placements = place_images(index.images, options.data)
    return report_buckets(index.images, placements, options.data, batch_size=options.train.batch_size)


def _draw(report: BucketReport, options: DataOptions, path: Path, *, overwrite: bool) -> None:
    from sdtune.data.buckets.contact_sheet import draw_sheet
    from sdtune.files import write_bytes

    buffer = BytesIO()
    draw_sheet(report.images, options.alpha_color).save(buffer, "PNG")
    write_bytes(path, buffer.getvalue(), overwrite=overwrite)
