"""What is unusual about image files, counted by kind, for the notes of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdtune.data.pictures.file_kinds import suffixes_of
from sdtune.data.sources.listing import suffix_of
from sdtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.config.data import DataOptions
    from sdtune.data.pictures.images import ImageHeader

_SHOWN = 5


@dataclass(slots=True)
class _Kind:
    count: int = 0
    names: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        more = f" and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
        return ", ".join(self.names) + more


class HeaderNotes:
    """Count unusual images by kind, with the names of the first five; memory does not grow with their number."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def add(self, name: str, header: ImageHeader, options: DataOptions) -> None:
        """Count an image of a folder with these options."""
        if suffix_of(name).lower() not in suffixes_of(header.format):
            self._count("content that is not what the name says, read as what it is", f"{name} ({header.format})")
        if is_sequence(header):
            self._count("several frames or pages, of which the first is used", name)
        if header.mode == "CMYK":
            self._count("CMYK colours, converted to sRGB", name)
        elif header.profile == "other":
            self._count("colours of another space than sRGB, converted", f"{name} ({header.icc or 'no name'})")
        if header.profile == "broken":
            self._count("a colour profile that cannot be used, taken as they are", name)
        if header.bits != 8:
            self._count(f"{header.bits} bit a channel, brought to 8", name)
        if header.has_alpha:
            weight = ", which weighs the loss" if options.alpha_weight else ""
            self._count(f"transparency{weight}, and {options.alpha_color} below (data.alpha_color)", name)
        if not 1 <= header.orientation <= 8:
            self._count("an EXIF orientation that cannot be read, taken as they are", name)

    def lines(self) -> list[str]:
        """Give one line for each kind, in the order in which they were met."""
        return [
            f"{kind.count} {'image' if kind.count == 1 else 'images'} with {what}: {kind}"
            for what, kind in self._kinds.items()
        ]

    def _count(self, what: str, name: str) -> None:
        kind = self._kinds.setdefault(what, _Kind())
        kind.count += 1
        if kind.count <= _SHOWN:
            kind.names.append(name)


def is_unusual(suffix: str, header: ImageHeader, options: DataOptions) -> bool:
    """Tell whether there is something to tell of an image with this suffix."""
    notes = HeaderNotes()
    notes.add(f"name{suffix}", header, options)
    return bool(notes.lines())


def is_sequence(header: ImageHeader) -> bool:
    """Tell whether a file is an animation or has pages; phones put a second picture into one JPEG, which is neither."""
    return header.has_more_frames and header.format not in ("MPO", "HEIF")


def check_is_single(path: Path, header: ImageHeader) -> None:
    """Refuse an animation or a file of several pages, for `data.animated: refuse`.

    Raises:
        DataError: It is one.
    """
    if is_sequence(header):
        raise DataError(
            f"{path} has several frames or pages", hint="save the one that is meant, or set data.animated=first"
        )
