"""`sdtune demo`: the first minute of a new user."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, metavar="DIR")
@click.option("--method", default="", metavar="NAME", help="What is shown; `sdtune plugins` lists the methods.")
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Optimizer steps; default: what was measured.")
@click.option("--overwrite", is_flag=True, help="Do it again over an earlier demo.")
@click.pass_context
def demo(ctx: click.Context, /, *, output: Path, method: str, steps: int | None, overwrite: bool) -> None:
    """Teach the demo model a creature it has never seen, and show the difference.

    Draws five pictures, trains, measures before and after, and puts the file into a webui folder. Needs no download and
    no GPU.
    """
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.demo.show import show

    shown = show(ctx.find_root().obj, ConsoleScreen(), output, method=method, steps=steps, overwrite=overwrite)
    click.echo(shown.render())
