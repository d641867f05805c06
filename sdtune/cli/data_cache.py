"""`sdtune data cache`: fill the caches of a run, ahead of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from sdtune.cli.request import MethodCommand, chosen_registry, common_flags, load_request, make_request

if TYPE_CHECKING:
    from sdtune.train.precache import CacheReport, CacheState


@click.command(cls=MethodCommand)
@common_flags()
@click.option("--dry-run", is_flag=True, help="Tell what is missing, and encode nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_context
def cache(ctx: click.Context, /, *, dry_run: bool, as_json: bool, **given: Any) -> None:
    r"""Encode the images and captions of a run, so that `sdtune train` with the same words encodes nothing.

    \b
    sdtune data cache --config run.yaml
    torchrun --nproc_per_node 4 -m sdtune data cache --config run.yaml

    It may be stopped at any time, and goes on where it was.
    """
    from sdtune.cli.progress import ConsoleScreen
    from sdtune.train.precache import fill_ahead

    loaded = load_request(ctx, make_request(ctx, given))
    report = fill_ahead(loaded, chosen_registry(ctx), ConsoleScreen(), is_dry=dry_run)
    if report is not None:
        click.echo(_json(report) if as_json else _text(report, dry_run))


def _text(report: CacheReport, is_dry: bool) -> str:
    lines = [_line("latents", report.latents, is_dry), _line("text", report.text, is_dry)]
    if report.to_draw:
        lines.append(f"{report.to_draw} regularization images are still to be drawn; the run draws and caches them")
    return "\n".join(lines)


def _line(kind: str, state: CacheState, is_dry: bool) -> str:
    from sdtune.files import show_bytes

    if state.folder is None:
        return f"{kind}: nothing is kept on disk: {state.why_not}"
    if not state.missing:
        return f"{kind}: all {state.wanted} are there, in {state.folder}"
    verb = "missing" if is_dry else "encoded now"
    size = f"{'at most' if kind == 'text' else 'about'} {show_bytes(state.missing_bytes)}"
    there = state.wanted - state.missing
    return f"{kind}: {state.wanted} in all, {there} were there, {state.missing} {verb}, {size}, in {state.folder}"


def _json(report: CacheReport) -> str:
    return json.dumps(asdict(report), indent=1, ensure_ascii=False, default=str)
