"""Options of held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.kinds import PositiveInt


class ValidationOptions(Options):
    """Images that are not trained on: their loss tells whether a run learns, and which step is best."""

    path: Path | None = None
    """A folder of images of their own, with captions as `data.captions` says; none of them may be trained on."""
    split: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the training images that is held out instead, e.g. 0.1; the content of the files decides which, so that
    copies stay together and names do not count."""
    every_steps: PositiveInt | None = None
    """Measure every so many steps. The base model and the last step are always measured."""
    every_epochs: PositiveInt | None = None
    """Measure every so many epochs. Without this and `every_steps`: ten times in the run."""
    timesteps: Annotated[int, Field(ge=1, le=1000)] = 8
    """Parts of the timestep range; each image is measured in the middle of each."""
    draws: PositiveInt = 1
    """Noises for each image and part."""
    most_images: PositiveInt | None = None
    """Measure no more images than this; null: all."""
    patience: PositiveInt | None = None
    """End the run early after so many measurements without an improvement; null: never."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """For `patience`: how much lower than before the loss must be to count as an improvement."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if self.path is not None and self.split is not None:
            raise ValueError("give either path or split, not both")
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        if not self.is_wanted and dict(self) != defaults:
            raise ValueError("validation does nothing without images: give split, e.g. 0.1, or path")
        return self

    @property
    def is_wanted(self) -> bool:
        """Whether images are held out."""
        return self.path is not None or self.split is not None
