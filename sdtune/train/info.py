"""What an exported file tells about its run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdtune.config.schema import CoreOptions
    from sdtune.data.types import ImageRecord, Size


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """Facts of a run at the moment of an export.

    Attributes:
        name: Stem of the file: also webui's alias.
        suffix: What `name` has after the run's own name: `-000002` after an epoch, empty at the end.
        step: Optimizer steps done.
        epoch: Epochs done, counting a started one.
        total_steps: Steps planned.
        total_epochs: Epochs planned.
        batches_per_epoch: Micro-batches in an epoch.
        config: All options.
        family: Family of the base model.
        prediction: `epsilon` or `v_prediction`.
        base_name: Name of the base model, no folder.
        base_digest: SHA-256 of the base model's file, or "" when it is a folder or was not computed.
        images: The data set, regularization left out.
        regularization: The regularization images.
        buckets: Bucket size to number of images times repeats.
        started_at: Unix seconds.
        finished_at: Unix seconds.
        trigger: Words that call what was learned; empty when not known.
        picture: The newest preview, for pictures of what was learned; None when there is none.
    """

    name: str
    step: int
    epoch: int
    total_steps: int
    total_epochs: int
    batches_per_epoch: int
    config: CoreOptions
    family: str
    prediction: str
    base_name: str
    base_digest: str
    images: tuple[ImageRecord, ...]
    buckets: Mapping[Size, int]
    started_at: float
    finished_at: float
    trigger: str = ""
    suffix: str = ""
    regularization: tuple[ImageRecord, ...] = ()
    picture: Path | None = None
