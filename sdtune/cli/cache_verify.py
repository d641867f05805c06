"""`sdtune cache verify`: read every entry, and drop what is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sdtune.data.caches.upkeep import Findings

dir_option = click.option(
    "--dir", "folder", type=click.Path(path_type=Path), metavar="DIR", help="The cache; default the user's own."
)


@click.command()
@dir_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def verify(folder: Path | None, as_json: bool) -> None:
    """Read every entry of the caches, and drop those that are damaged.

    Runs check every entry they use in the same way, and make damaged ones anew; this does it ahead, for all of them.
    """
    from sdtune.data.caches.upkeep import examine

    root = cache_root(folder)
    facts: dict[str, Any] = {"dir": str(root)}
    for kind in kinds():
        findings = examine(root / kind)
        facts[kind] = _facts(findings) | {"dropped": _drop(root / kind, findings)}
        if not as_json:
            click.echo(f"{kind}: {_text(findings)}")
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))


def cache_root(folder: Path | None) -> Path:
    """Give the cache folder that was asked for.

    Raises:
        ConfigError: It is not there.
    """
    from sdtune.errors import ConfigError
    from sdtune.paths import user_cache_folder

    if folder is not None and not folder.is_dir():
        raise ConfigError(f"no folder {folder}", where="--dir", hint="give the folder that data.cache.dir names")
    return folder or user_cache_folder()


def kinds() -> tuple[str, ...]:
    """List the kinds of caches: their folders."""
    from sdtune.data.caches.tensor_store import KINDS

    return KINDS


def _facts(findings: Findings) -> dict[str, int]:
    return {
        "entries": findings.entries,
        "bytes": findings.size_bytes,
        "damaged_entries": findings.damaged_entries,
        "unreadable_shards": len(findings.unreadable),
        "other_files": len(findings.others),
    }


def _text(findings: Findings) -> str:
    from sdtune.files import show_bytes

    parts = [f"{findings.entries} sound entries, {show_bytes(findings.size_bytes)}"]
    if findings.damaged_entries:
        parts.append(f"{findings.damaged_entries} damaged entries")
    if findings.unreadable:
        parts.append(f"{len(findings.unreadable)} files that cannot be read")
    if findings.others:
        parts.append(f"{len(findings.others)} files of another version, which `sdtune cache prune` removes")
    return "; ".join(parts)


def _drop(folder: Path, findings: Findings) -> bool:
    """Drop what is damaged, and tell whether that was done; while a run uses the cache, it is not."""
    from sdtune.data.caches.upkeep import drop_damaged
    from sdtune.errors import PlatformError

    if findings.is_sound:
        return False
    try:
        drop_damaged(folder, findings)
    except PlatformError as error:
        click.echo(f"warning: damaged entries stay where they are, and are not used: {error}", err=True)
        return False
    click.echo(f"{folder.name}: what was damaged is dropped, and made anew by the next run that needs it", err=True)
    return True
