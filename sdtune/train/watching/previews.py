"""Pictures while training: the same prompts and seeds each time, and one labelled grid of all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from sdtune.data.types import Size
from sdtune.sampling.grid import draw_grid, save_picture
from sdtune.sampling.request import PictureRequest
from sdtune.sampling.sampler import encode_prompts, sample
from sdtune.train.watching.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdtune.models.base import Conditioning
    from sdtune.train.run import Run

_PICTURE = re.compile(r"step-(\d{8})-(\d{2})\.png")


def preview_requests(run: Run) -> tuple[PictureRequest, ...]:
    """List the pictures a run draws each time: one for each prompt, seeds counting up."""
    options = run.options.preview
    width, height = run.options.data.size_px if options.size is None else _sides(options.size)
    return tuple(
        PictureRequest(
            prompt=prompt,
            negative=options.negative,
            seed=options.seed + number,
            size=Size(width, height),
            steps=options.steps,
            cfg=options.cfg,
            sampler=options.sampler,
        )
        for number, prompt in enumerate(options.prompts)
    )


def preview_path(folder: Path, step: int, number: int) -> Path:
    """Name the picture of prompt `number` after `step` steps."""
    return folder / f"step-{step:08d}-{number:02d}.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewObserver(Observer):
    """Draw before the first step, in between when due, and after the last; keep the grid up to date.

    Attributes:
        requests: What to draw each time.
    """

    requests: tuple[PictureRequest, ...]

    def on_start(self, run: Run, step: int) -> None:
        """Draw the model before it is trained."""
        if step == 0:
            self._draw(run, step)

    def on_pause(self, run: Run, step: int) -> None:
        """Draw in between."""
        self._draw(run, step)

    def on_end(self, run: Run, step: int) -> None:
        """Draw the trained model."""
        if step == run.timetable.steps:
            self._draw(run, step)

    def _draw(self, run: Run, step: int) -> None:
        pictures = sample(run.model, self.requests, conditionings=self._conditionings(run))
        for number, (request, picture) in enumerate(zip(self.requests, pictures, strict=True)):
            save_picture(preview_path(run.folder.previews, step, number), picture, [request], overwrite=True)
        self._save_grid(run)

    def _conditionings(self, run: Run) -> dict[str, Conditioning]:
        if run.texts is None:
            return encode_prompts(run.model, self.requests)
        texts = {text for request in self.requests for text in request.texts()}
        return {text: run.texts.get([text]).to(run.device) for text in texts}

    def _save_grid(self, run: Run) -> None:
        """Draw all pictures there are, also those from before the run was resumed."""
        folder = run.folder.previews
        steps = sorted({step for step, _ in _drawn(folder)})
        pictures = [
            [_open(preview_path(folder, step, number)) for step in steps] for number in range(len(self.requests))
        ]
        rows = [request.prompt for request in self.requests]
        labels = [_label(step, run.timetable.steps) for step in steps]
        save_picture(run.folder.grid, draw_grid(rows, labels, pictures), self.requests, overwrite=True)


def _label(step: int, steps: int) -> str:
    return "before" if step == 0 else f"after {step} steps" if step == steps else f"step {step}"


def _drawn(folder: Path) -> Iterator[tuple[int, int]]:
    for path in folder.iterdir():
        if match := _PICTURE.fullmatch(path.name):
            yield int(match[1]), int(match[2])


def _open(path: Path) -> Image.Image | None:
    return Image.open(path) if path.exists() else None


def _sides(size: str) -> tuple[int, int]:
    sides = [int(side) for side in size.split("x")]
    return sides[0], sides[-1]
