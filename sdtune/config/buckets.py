"""Options of aspect-ratio buckets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sdtune.config.base import Options
from sdtune.config.kinds import PositiveInt, Size

BucketRule = Literal["area", "ratios", "fixed"]


class BucketOptions(Options):
    """Aspect-ratio buckets: images of like shape are trained together, cropped as little as possible."""

    enabled: bool = True
    """Off: every image is resized and cropped to the resolution."""
    rule: BucketRule = "area"
    """`area`: all sizes in steps whose area is at most the resolution's, as kohya's scripts have them; `ratios`:
    `num_bucket` groups of like shape, found in the images themselves; `fixed`: those of `sizes`."""
    min_px: PositiveInt = 256
    """Shortest side of a bucket; lowered to fit a resolution below it."""
    max_px: PositiveInt | None = None
    """Longest side of a bucket; null: twice the longer side of the resolution, so wide pictures keep their area."""
    step_px: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Sides of buckets are multiples of this; lowered to 8 when the resolution is below 256."""
    no_upscale: bool = False
    """Never enlarge: small images get buckets of their own size."""
    target_area: Annotated[int, Field(ge=64)] | None = None
    """Of `ratios`: pixels of a bucket, e.g. 393216 or ${eval:512*768}; null: the resolution's."""
    num_bucket: PositiveInt | None = None
    """Of `ratios`: how many groups of like shape, at most the number of images; null: 5."""
    sizes: tuple[Size, ...] = ()
    """Of `fixed`: the buckets, e.g. [512, 640x448, 448x640]."""

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.rule == "fixed") != bool(self.sizes):
            raise ValueError("rule: fixed and a list of sizes belong together; set both, or neither")
        if self.rule != "ratios" and (self.target_area or self.num_bucket):
            raise ValueError("target_area and num_bucket would do nothing without rule: ratios")
        if self.rule != "area" and self.no_upscale:
            raise ValueError("no_upscale would do nothing without rule: area")
        return self
