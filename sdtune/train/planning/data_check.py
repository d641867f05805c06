"""The doctor's look at the images of a run, for its plan: what the run knows already, and a little more."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from sdtune.data.buckets.report import report_buckets
from sdtune.data.check.diagnosis import diagnose
from sdtune.data.check.looking import run_facts
from sdtune.data.check.memory import open_memory
from sdtune.data.check.pictures import examine
from sdtune.data.check.survey import SeenFolder, SeenImage, SeenMask, Survey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sdtune.data.check.diagnosis import Diagnosis
    from sdtune.data.check.memory import Memory
    from sdtune.data.check.pictures import PictureFacts
    from sdtune.data.check.survey import Role
    from sdtune.data.types import ImageRecord, Subset
    from sdtune.train.run import Run

MOST_IMAGES = 1000
"""A plan looks at so many images at most, evenly spread, so that it takes no longer for a million."""
MOST_PIXELS = 1_000_000_000
"""Pictures of so many pixels in all are decoded for a plan, 10 s at most; the rest waits for `sdtune data check`.

Of a data set that is too large to be looked at as a whole none is decoded: what is remembered has to do."""


def check_data(run: Run) -> Diagnosis:
    """Look at the images of a run; those that were looked at before are remembered."""
    records = run.index.images
    chosen = range(0, len(records), max(1, math.ceil(len(records) / MOST_IMAGES)))
    images = [records[number] for number in chosen]
    placements = [run.placements[number] for number in chosen]
    data, held = run.options.data, run.held_out.index.images[:MOST_IMAGES] if run.held_out else ()
    with open_memory(data.cache.dir) as memory:
        budget = MOST_PIXELS if len(images) == len(records) else 0
        known = _examine([record for record in (*images, *held) if record.digest], memory, budget)
    measured = [_seen(record, "validation", known) for record in held]
    folders = [*_folders(images, known), *_apart(measured)]
    return diagnose(
        Survey(
            root=data.path or run.index.subsets[0].path,
            options=data,
            folders=tuple(folders),
            run=run_facts(run.options, run.model),
            buckets=report_buckets(images, placements, data, batch_size=run.options.train.batch_size),
            images_in_all=len(records) if len(images) < len(records) else None,
        )
    )


def _examine(records: Iterable[ImageRecord], memory: Memory, budget: int) -> dict[str, PictureFacts]:
    """Give what is seen in pictures, by digest: remembered, or looked at until `budget` pixels are decoded."""
    known, left = {}, budget
    for record in records:
        facts = memory.recall(record.digest)
        if facts is None and left > 0:
            left -= math.prod(record.size)
            facts = examine(record.path)
            memory.keep(record.digest, facts)
        if facts is not None and not facts.error:
            known[record.digest] = facts
    return known


def _folders(records: Iterable[ImageRecord], known: dict[str, PictureFacts]) -> list[SeenFolder]:
    by_name: dict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        by_name[record.subset.name].append(record)
    return [_folder(own[0].subset, own, known) for own in by_name.values()]


def _folder(subset: Subset, records: Iterable[ImageRecord], known: dict[str, PictureFacts]) -> SeenFolder:
    role: Role = "regularization" if subset.is_regularization else "training"
    return SeenFolder(
        path=subset.path,
        role=role,
        images=tuple(_seen(record, role, known) for record in records),
        repeats=subset.repeats,
        class_text=subset.class_text,
        caption_source=subset.caption_source,
        is_paired=bool(subset.pairs_with),
    )


def _apart(measured: list[SeenImage]) -> list[SeenFolder]:
    if not measured:
        return []
    return [SeenFolder(path=measured[0].path.parent, role="validation", images=tuple(measured))]


def _seen(record: ImageRecord, role: Role, known: dict[str, PictureFacts]) -> SeenImage:
    """Take over what the run knows of an image; it has checked files and masks itself."""
    return SeenImage(
        path=record.path,
        role=role,
        size=record.size,
        facts=known.get(record.digest),
        digest=record.digest,
        caption=record.caption,
        mask=SeenMask(path=record.mask.path, size=record.size, is_flat=False) if record.mask else None,
    )
