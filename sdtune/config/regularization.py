"""Options of regularization images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.kinds import SamplerName


class GenerateOptions(Options):
    """Regularization images that are missing, drawn by the base model before training and kept for later runs."""

    per_image: Annotated[int, Field(ge=0, le=1000)] = 0
    """Images wanted for each training image; those that are there with the prompt count. 0: none are drawn."""
    negative: str = ""
    """Negative prompt."""
    sampler: SamplerName = "dpmpp_2m_karras"
    """Sampler."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 40
    """Sampling steps."""
    cfg: Annotated[float, Field(ge=1, le=50)] = 7.5
    """Guidance scale; 1 is no guidance."""
    seed: Annotated[int, Field(ge=0, lt=2**62)] = 1
    """Seed of image 0; the others count up."""


class RegularizationOptions(Options):
    """Pictures of the subject's class, trained beside the subject's own, so that the class stays what it was."""

    path: Path | None = None
    """A folder of images, or of `N_name` folders; `1_dog` belongs to the training folder `10_zwx dog`. null: none, or
    for `generate` the user's cache folder."""
    prompt: str | None = None
    """Caption of images without a .txt or .caption file, and what is drawn, e.g. "a photo of a dog"; `[filewords]`: the
    caption of the image it is drawn for. null: the folder's name after N_."""
    generate: GenerateOptions = GenerateOptions()
    """Drawing what is missing."""
    ratio: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Visits of regularization images for one visit of a training image. All of them take turns over the epochs."""
    weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight of their loss against that of training images."""
    weight_end: Annotated[float, Field(ge=0, le=100)] | None = None
    """Their weight in the last epoch; it goes there in a straight line from the first. null: as `weight`."""

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.generate.per_image and not self.prompt:
            raise ValueError("prompt must say what generate.per_image draws, e.g. a photo of a dog")
        return self
