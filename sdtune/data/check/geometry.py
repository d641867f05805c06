"""Checks of what buckets do to the images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.check import kinds
from sdtune.data.check.files import leave_out
from sdtune.data.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.data.check.survey import Survey

TINY = 0.5
"""Share of the resolution's shorter side below which the shorter side of an image is tiny."""


def tiny_images(survey: Survey) -> Iterator[Finding]:
    """Find images that have less than half of the pixels they need, each way."""
    least = TINY * min(survey.run.size)
    for image in survey.images:
        if image.size and min(image.size) < least:
            yield Finding(
                kind=kinds.TINY,
                place=str(image.path),
                message=f"{image.size} px, for a resolution of {survey.run.size}",
                remedy="take a larger picture, or leave it out; or a lower data.resolution",
                script=leave_out(image),
            )


def bucket_costs(survey: Survey) -> Iterator[Finding]:
    """Find images that are enlarged or cut much, and buckets of few images or few pixels."""
    if survey.buckets is None:
        return
    tiny = {finding.place for finding in tiny_images(survey)}
    for finding in survey.buckets.findings():
        is_known = finding.kind == kinds.ENLARGED and finding.place in tiny
        is_guess = finding.kind == kinds.STARVING_BUCKET and survey.images_in_all is not None
        if not is_known and not is_guess:
            yield finding
