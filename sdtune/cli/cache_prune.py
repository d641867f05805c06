"""`sdtune cache prune`: remove what no run has used for long."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from sdtune.cli.cache_verify import cache_root, dir_option

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sdtune.data.caches.upkeep import Removal

_REASONS = {
    "another layout": "of another version of sdtune",
    "damaged": "damaged",
    "unused": "not used for so long",
    "room": "to make room",
}


@click.command()
@dir_option
@click.option(
    "--days",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Remove what was not used for so long.",
)
@click.option("--keep", metavar="SIZE", help="Leave so much at most, e.g. 20GB; what was used longest ago goes first.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def prune(folder: Path | None, days: float, keep: str | None, dry_run: bool, as_json: bool) -> None:
    """Remove what no run has used for long, and what other versions of sdtune left.

    Everything in a cache can be made again. While a run uses the cache, nothing is removed.
    """
    from sdtune.data.caches.upkeep import plan_removals, remove

    root = cache_root(folder)
    removals = plan_removals(root, unused_days=days, keep_bytes=_bytes(keep), now=time.time())
    if not dry_run:
        remove(root, removals)
    click.echo(_json(root, removals, dry_run) if as_json else _text(removals, dry_run))


def _bytes(keep: str | None) -> int | None:
    from sdtune.errors import ConfigError
    from sdtune.files import parse_bytes

    if keep is None:
        return None
    if (found := parse_bytes(keep)) is not None:
        return found
    raise ConfigError(f"--keep {keep!r} is no size", hint="write it like 20GB or 500MB")


def _text(removals: Sequence[Removal], dry_run: bool) -> str:
    from sdtune.files import show_bytes

    counts, sizes = Counter[str](), Counter[str]()
    for removal in removals:
        counts[removal.why] += 1
        sizes[removal.why] += removal.size_bytes
    verb = "would be removed" if dry_run else "removed"
    lines = [f"{verb}: {count} files, {show_bytes(sizes[why])}, {_REASONS[why]}" for why, count in counts.items()]
    return "\n".join(lines or ["nothing to remove"])


def _json(root: Path, removals: Sequence[Removal], dry_run: bool) -> str:
    facts: dict[str, Any] = {
        "dir": str(root),
        "removed": not dry_run,
        "bytes": sum(removal.size_bytes for removal in removals),
        "files": [{"path": str(it.path), "bytes": it.size_bytes, "why": it.why} for it in removals],
    }
    return json.dumps(facts, indent=1, ensure_ascii=False)
