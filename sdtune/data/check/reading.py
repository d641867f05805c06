"""Read single files of a data set as far as they go: what is broken becomes a fault, never an exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.captions.files import decode_text
from sdtune.data.check.pictures import examine
from sdtune.data.check.survey import Fault, SeenCaption, SeenImage, SeenMask
from sdtune.data.digests import bytes_digest
from sdtune.data.pictures.images import decode_mask, read_file, read_header
from sdtune.data.types import Size
from sdtune.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.data.check.memory import Memory
    from sdtune.data.check.survey import FaultKind, Role

_MOST_BYTES = 1 << 20  # of a caption; a run refuses far shorter ones
_CUT_OFF = ("truncated", "cut off", "unprocessed", "incomplete")


def read_image(path: Path, role: Role, root: Path, memory: Memory) -> SeenImage:
    """Read a picture: header, pixels, digest.

    Args:
        path: The file.
        role: What it is for.
        root: Resolved folder that links may not lead out of.
        memory: What is known of pictures that were read before.
    """
    if not path.name.isprintable():
        return _faulty(path, role, "bad-name", "its name is not plain text")
    if path.is_symlink() and not path.resolve().is_relative_to(root):
        return _faulty(path, role, "bad-name", "it is a link to outside the folder")
    try:
        data = read_file(path)
    except DataError as error:
        return _faulty(path, role, "corrupt", error.problems[0].message.replace(str(path), "it"))
    digest = bytes_digest(data)
    facts = memory.recall(digest)
    if facts is None:
        facts = examine(data)
        memory.keep(digest, facts)
    return SeenImage(
        path=path,
        role=role,
        size=Size(facts.width, facts.height) if not facts.error else None,
        fault=_fault(facts.error) if facts.error else None,
        facts=None if facts.error else facts,
        digest=digest,
        size_bytes=len(data),
    )


def read_caption(path: Path) -> SeenCaption:
    """Read a caption file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        return SeenCaption(path=path, text=decode_text(data, path))
    except OSError as error:
        return SeenCaption(path=path, text=None, fault=f"cannot be read: {error.strerror}")
    except DataError as error:
        return SeenCaption(path=path, text=None, fault=error.problems[0].message.removeprefix(f"{path} "))


def read_mask(path: Path) -> SeenMask:
    """Read a mask."""
    try:
        size = read_header(path).size
        mask = decode_mask(read_file(path), path)
    except DataError:
        return SeenMask(path=path, size=None, is_flat=False)
    return SeenMask(path=path, size=size, is_flat=bool(mask.min() == mask.max()))


def _faulty(path: Path, role: Role, kind: FaultKind, text: str) -> SeenImage:
    return SeenImage(path=path, role=role, fault=Fault(kind=kind, text=text))


def _fault(error: str) -> Fault:
    """Tell what kind of fault an error is by its words: `data.pictures.images` raises one class for all."""
    kind: FaultKind = "corrupt"
    if "too large" in error:
        kind = "too-large"
    elif any(word in error.lower() for word in _CUT_OFF):
        kind = "cut-off"
    return Fault(kind=kind, text=error.removeprefix("corrupt image picture: ").removeprefix("image picture "))
