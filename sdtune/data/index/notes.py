"""What a user should know of the names and copies in a data set."""

from __future__ import annotations

import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

from sdtune.data.captions.stand_ins import FILES
from sdtune.data.sources.listing import Files, shorten, stem_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from sdtune.data.sources.folders import Folder
    from sdtune.data.tables.records import ImageTable
    from sdtune.errors import Problems


def check_stems(folders: Sequence[Folder], sources: Sequence[str], notes: list[str], problems: Problems) -> None:
    """Refuse two images that would share one caption file; tell of names that differ in case only."""
    for folder, source in zip(folders, sources, strict=True):
        images = Files.of(folder.listing.images)
        if len({stem.casefold() for stem in images.stems()}) == len(images):
            continue
        names = images.names
        for twins in _equal(names, stem_of):
            if source in FILES:
                problems.add(
                    f"{' and '.join(twins)} in {folder.path} would share one caption file", hint="rename or remove one"
                )
        cases = {_caseless(twins[0]): len(twins) for twins in _equal(names, _caseless)}
        notes += [f"{folder.name}: {name} stands there in {n} spellings" for name, n in cases.items()]


def _caseless(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _equal(names: Iterable[str], key: Callable[[str], str]) -> list[list[str]]:
    """List the names that have a key in common."""
    counts = Counter(map(key, names))
    if counts.total() == len(counts):
        return []
    shared: dict[str, list[str]] = {name: [] for name, count in counts.items() if count > 1}
    for name in names:
        if (own := key(name)) in shared:
            shared[own].append(name)
    return list(shared.values())


def describe_ignored(folders: Sequence[Folder]) -> list[str]:
    """Count what was left aside, by reason."""
    ignored: Counter[str] = Counter()
    for folder in folders:
        listing = folder.listing
        ignored += listing.ignored
        stems = Files.of(listing.images).stems()
        for suffix, files in ((suffix, files) for suffix, files in listing.captions.items() if files):
            ignored[f"{suffix} without an image"] += len(files) - sum(stem in files for stem in stems)
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(ignored.items()) if count)
    return [f"ignored files: {counts}"] if counts else []


def describe_copies(images: ImageTable) -> list[str]:
    """Name files of equal content, group by group."""
    notes = []
    for rows in images.digests.copies():
        names: dict[Path, str] = {}  # of a file that is trained at two sizes, one name
        for row in rows:
            names.setdefault(images.paths[row], images.names[row])
        notes += [f"the same picture: {shorten([*names.values()])}"] if len(names) > 1 else []
    return notes
