"""Pictures while training: the same prompts and seeds each time, and one labelled grid at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.sampling.grid import save_grid
from sdtune.sampling.sampler import PictureRequest, sample
from sdtune.train.observers import Observer

if TYPE_CHECKING:
    from PIL.Image import Image

    from sdtune.models.base import Conditioning
    from sdtune.train.run import Run


class PreviewObserver(Observer):
    """Draw before the first step, in between when due, and after the last.

    Args:
        requests: What to draw.
        texts: Prompt to its conditioning, where the text encoder is not in memory; None encodes each time.
    """

    def __init__(self, requests: list[PictureRequest], texts: dict[str, Conditioning] | None) -> None:
        self._requests = requests
        self._texts = texts
        self._columns: dict[str, list[Image]] = {}

    def on_start(self, run: Run, step: int) -> None:
        """Draw the model before it is trained."""
        if step == 0:
            self._draw(run, step)

    def on_pause(self, run: Run, step: int) -> None:
        """Draw in between."""
        self._draw(run, step)

    def on_end(self, run: Run, step: int) -> None:
        """Draw at the end of the run, and write the grid."""
        if step == run.timetable.steps:
            self._draw(run, step)
        ...

    def _draw(self, run: Run, step: int) -> None: ...
