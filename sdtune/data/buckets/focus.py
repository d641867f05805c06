"""What of each image matters, along its width and height; worked out once and kept by content."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np

from sdtune.data.buckets.faces import FaceFinder, face_in_name
from sdtune.data.buckets.saliency import saliency
from sdtune.data.digests import bytes_digest, file_digest
from sdtune.data.pictures.images import decode
from sdtune.errors import DataError
from sdtune.paths import user_cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdtune.config.data import DataOptions
    from sdtune.data.buckets.faces import Face
    from sdtune.data.types import ImageRecord

logger = logging.getLogger(__name__)

PARTS = 64
FILE_NAME = "focus.jsonl"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Focus:
    """How much each part of a picture matters.

    Attributes:
        across: (64,) float64 in [0, 255]: equal parts of the width, from the left.
        down: (64,) float64 in [0, 255]: equal parts of the height, from the top.
        is_face: Faces matter; else what draws the eye.
    """

    across: NDArray[np.float64]
    down: NDArray[np.float64]
    is_face: bool = False


def find_focuses(images: Sequence[ImageRecord], options: DataOptions) -> list[Focus | None]:
    """Find what matters in images, in order; None for an image that cannot be read, which others will tell of.

    With `crop: face`: the face that the file's name tells, else those that a detector finds, else what draws the eye.
    Each image is decoded once: answers are kept in the cache folder by what the file holds.

    Args:
        images: Images.
        options: As they hold for them, with `crop` `focal` or `face`.

    Raises:
        PlatformError: `face_model` is given, and OpenCV is missing.
        DataError: `face_model` cannot be read.
    """
    wants_faces = options.crop == "face"
    named = [face_in_name(record.path.stem, record.size) if wants_faces else None for record in images]
    seeker = _Seeker(options)
    unnamed = [record for record, face in zip(images, named, strict=True) if face is None]
    seen = iter(seeker.seek(unnamed))
    found = [next(seen) if face is None else focus_on_faces([face]) for face in named]
    faceless = [record.name for record, focus in zip(images, found, strict=True) if focus and not focus.is_face]
    if wants_faces and faceless:
        logger.warning(
            "no face is known in %d of %d images, they are cut around what draws the eye; first: %s%s",
            len(faceless),
            len(images),
            faceless[0],
            "" if options.face_model else "; data.face_model finds faces",
        )
    return found


def focus_on_faces(faces: Sequence[Face]) -> Focus:
    """Weigh the parts of a picture by how much of them is covered by faces (at least one)."""
    return Focus(
        across=_covered([(face.left, face.right) for face in faces]),
        down=_covered([(face.top, face.bottom) for face in faces]),
        is_face=True,
    )


def focus_on_salient(picture: NDArray[np.uint8]) -> Focus:
    """Weigh the parts of a picture, (H, W, 3) uint8, by what draws the eye."""
    weights = saliency(picture)
    return Focus(across=_in_parts(weights.sum(axis=0)), down=_in_parts(weights.sum(axis=1)))


class _Seeker:
    """Look at pictures, or remember what was seen in them."""

    def __init__(self, options: DataOptions) -> None:
        self._options = options
        model = options.face_model if options.crop == "face" else None
        self._finder = FaceFinder(model) if model else None
        self._facts = (_VERSION, options.alpha_color, file_digest(model) if model else "")
        folder = options.cache.dir.expanduser() if options.cache.dir else user_cache_folder()
        self._file = folder / FILE_NAME
        self._lock = Lock()

    def seek(self, images: Sequence[ImageRecord]) -> list[Focus | None]:
        keys = [bytes_digest(repr((*self._facts, record.digest)).encode()) for record in images]
        known = _read(self._file, set(keys))
        new = {key: record for key, record in zip(keys, images, strict=True) if key not in known}
        with ThreadPoolExecutor(max_workers=max(1, self._options.workers)) as pool:
            looked = dict(zip(new, pool.map(self._look, new, new.values()), strict=True))
        return [known.get(key) or looked[key] for key in keys]

    def _look(self, key: str, record: ImageRecord) -> Focus | None:
        try:
            picture = decode(record.path, self._options.alpha_color)
        except DataError:
            return None
        with self._lock:  # a network serves one at a time
            faces = self._finder.find(picture) if self._finder else ()
        focus = focus_on_faces(faces) if faces else focus_on_salient(picture)
        with self._lock:
            _keep(self._file, key, focus)
        return focus


def _covered(spans: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    marks = np.linspace(0, 1, PARTS + 1)
    return _scale(sum((np.diff(np.clip(marks, low, high)) for low, high in spans), np.zeros(PARTS)))


def _in_parts(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread (n,) weights of equal parts over 64."""
    below = np.concatenate([[0.0], np.cumsum(weights)])
    marks = np.linspace(0, len(weights), PARTS + 1)
    return _scale(np.diff(np.interp(marks, np.arange(len(below)), below)))


def _scale(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring the largest to 255, in whole numbers: what is kept in a file is what is used at once."""
    most = weights.max()
    return np.round(weights * (255 / most)) if most > 0 else np.zeros(PARTS)


def _keep(file: Path, key: str, focus: Focus) -> None:
    """Append an answer; several processes may do so at once. A folder that cannot be written keeps none."""
    line = json.dumps({"key": key, "across": _pack(focus.across), "down": _pack(focus.down), "face": focus.is_face})
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="ascii") as stream:
            stream.write(f"{line}\n")


def _read(file: Path, wanted: set[str]) -> dict[str, Focus]:
    """Read answers; lines that are damaged, e.g. by a process that was killed, count for nothing."""
    found = {}
    with suppress(OSError), file.open(encoding="ascii", errors="replace") as stream:
        for line in stream:
            with suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                if entry["key"] in wanted:
                    across, down = _unpack(entry["across"]), _unpack(entry["down"])
                    found[entry["key"]] = Focus(across=across, down=down, is_face=bool(entry["face"]))
    return found


def _pack(weights: NDArray[np.float64]) -> str:
    return weights.astype(np.uint8).tobytes().hex()


def _unpack(text: str) -> NDArray[np.float64]:
    weights = np.frombuffer(bytes.fromhex(text), dtype=np.uint8).astype(np.float64)
    if len(weights) != PARTS:
        raise ValueError(f"{len(weights)} parts")
    return weights
