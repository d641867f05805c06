"""Where in a picture faces are: as its file's name says, or as a detector finds them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdtune.errors import DataError, PlatformError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sdtune.data.types import Size

LONGEST_PX = 640
LOWEST_SCORE = 0.8
_SUFFIX = re.compile(r".*_(\d+)_(\d+)_(\d+)_(\d+)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A face's box, in shares of the picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float


def face_in_name(stem: str, size: Size) -> Face | None:
    """Read a face from a file's name: `NAME_CX_CY_W_H`, middle and size in px, as kohya's scripts do.

    Args:
        stem: The file's name without its suffix.
        size: Size of the picture.

    Returns:
        The face; None where the name says nothing, or the middle lies outside the picture.
    """
    found = _SUFFIX.fullmatch(stem)
    if found is None:
        return None
    x, y, width, height = (int(number) for number in found.groups())
    if x > size.width or y > size.height or not width or not height:
        return None
    return Face(
        left=(x - width / 2) / size.width,
        top=(y - height / 2) / size.height,
        right=(x + width / 2) / size.width,
        bottom=(y + height / 2) / size.height,
    )


class FaceFinder:
    """Find faces by a YuNet network (Wu et al. 2023), with OpenCV.

    Args:
        model: Its .onnx file; OpenCV's wheels bring none.

    Raises:
        PlatformError: OpenCV is not installed.
        DataError: OpenCV cannot read the file.
    """

    def __init__(self, model: Path) -> None:
        try:
            import cv2
        except ImportError:
            raise PlatformError(
                "data.face_model needs the package opencv-python-headless", hint="pip install 'sdtune[faces]'"
            ) from None
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # 5.0 warns of what nobody has set
        if not model.is_file():
            raise DataError(f"no file {model}", where="data.face_model", hint="give the .onnx file of a YuNet model")
        try:
            self._net: Any = cv2.FaceDetectorYN.create(str(model), "", (LONGEST_PX, LONGEST_PX), LOWEST_SCORE)
        except cv2.error:
            raise DataError(
                f"{model} is not a network that OpenCV reads",
                where="data.face_model",
                hint="give the .onnx file of a YuNet model",
            ) from None

    def find(self, picture: NDArray[np.uint8]) -> tuple[Face, ...]:
        """Find the faces in a picture, (H, W, 3) uint8 RGB."""
        image = Image.fromarray(picture)
        image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.BOX)
        self._net.setInputSize(image.size)
        _, rows = self._net.detect(np.ascontiguousarray(np.asarray(image)[:, :, ::-1]))
        return faces_of_rows([] if rows is None else rows, image.size)


def faces_of_rows(rows: Sequence[Sequence[float]], size: tuple[int, int]) -> tuple[Face, ...]:
    """Read the rows that OpenCV's detector gives: left, top, width and height in px come first."""
    boxes = [[float(value) for value in row[:4]] for row in rows]
    return tuple(
        Face(left=x / size[0], top=y / size[1], right=(x + width) / size[0], bottom=(y + height) / size[1])
        for x, y, width, height in boxes
    )
