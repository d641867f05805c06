"""What is said about folders: where their repeats came from, and what is not trained on."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from sdtune.data.sources.listing import shorten
from sdtune.data.sources.tree import REGULARIZATION, LeftOut, read_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sdtune.data.sources.folders import Folder
    from sdtune.data.sources.tree import Tree

_MOST_NOTES = 5


def describe_repeats(folders: Sequence[Folder], is_one_of_several: bool) -> list[str]:
    """Say where repeats came from that nobody reads in a folder's own name.

    Args:
        folders: Those whose repeats nobody gave.
        is_one_of_several: There is more than one folder in all.
    """
    named = [folder for folder in folders if read_number(folder.name.rpartition("/")[2]) is None]
    loose = [folder for folder in named if not folder.prefix and is_one_of_several]
    above = [folder for folder in named if folder.is_numbered]
    plain = [folder for folder in named if folder.prefix and not folder.is_numbered and not folder.own]
    return [
        *_lines(loose, "beside its folders, repeats {:g}"),
        *_lines(above, "repeats {:g} (of a folder above it)"),
        *_lines(plain, "repeats {:g} (no number in the folder's name)"),
    ]


def describe_left_out(tree: Tree, prefix: str) -> list[str]:
    """Name what is not trained on, by reason, with the number of images in it; count files that are of no use.

    Args:
        tree: What was found.
        prefix: What the names of its folders begin with.
    """
    by_reason = defaultdict[str, list[LeftOut]](list)
    for other in tree.left_out:
        if other.count or other.is_link:
            by_reason[other.reason].append(other)
    notes = []
    for reason, others in by_reason.items():
        names = shorten([f"{prefix}{other.name}" for other in others])
        use = f"; to use them as such, set regularization.path={others[0].path}" if reason == REGULARIZATION else ""
        notes.append(f"left out: {sum(other.count for other in others)} images in {names}, {reason}{use}")
    strays = Counter[str]()
    for place in tree.places:
        if not place.count:
            strays += place.listing.ignored
            strays["captions"] += sum(len(files) for files in place.listing.captions.values())
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(strays.items()) if count)
    return [*notes, *([f"ignored files in folders without images: {counts}"] if counts else [])]


def _lines(folders: Iterable[Folder], text: str) -> list[str]:
    lines = [f"{folder.name}: {len(folder.listing.images)} images, {text.format(folder.repeats)}" for folder in folders]
    rest = len(lines) - _MOST_NOTES
    return lines if rest <= 0 else [*lines[:_MOST_NOTES], f"and {rest} more folders like it"]
