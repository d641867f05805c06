"""The file `schedule.jsonl`: what each step of a run trains, of which bucket, by which caption."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from sdtune.files import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sdtune.train.inputs.source import InputSource
    from sdtune.train.run import Run


def write_schedule(run: Run, source: InputSource, *, first: int, on_step: Callable[[], None]) -> Path:
    """Write what all steps of a run will train, one JSON line each, in the memory of one.

    All of it is known before the first step. Where a run goes on, lines of steps that are done stay as they are: they
    say what was trained, whatever options have changed since.

    Args:
        run: The run.
        source: Inputs of its steps.
        first: Steps that are done.
        on_step: Called before each line.

    Raises:
        PlatformError: The file cannot be written.
        StoppedError: From `on_step`.
    """
    path = run.folder.schedule
    with writing(path, overwrite=True) as draft, draft.open("wb") as file:
        done = 0
        for known in _lines_done(path, first):
            file.write(known)
            done += 1
        for step in range(done, run.timetable.steps):
            on_step()
            line = json.dumps(_describe(run, source, step), ensure_ascii=False)
            file.write(line.encode(errors="backslashreplace") + b"\n")  # names of files may be no UTF-8
    return path


def _lines_done(path: Path, count: int) -> Iterator[bytes]:
    """Give the first lines of a file that is there, up to one that is cut off."""
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in islice(file, count) if line.endswith(b"\n"))


def _describe(run: Run, source: InputSource, step: int) -> dict[str, Any]:
    planned = [source.plan(micro) for micro in run.timetable.micro_steps(step)]
    return {
        "step": step + 1,
        "epoch": planned[0][0] + 1,
        "batches": [
            {
                "bucket": str(batch.bucket),
                "samples": [[visit.sample_id, source.caption(visit, epoch, step)] for visit in batch.visits],
            }
            for epoch, batch in planned
        ],
    }
