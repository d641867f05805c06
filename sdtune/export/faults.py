"""What is wrong with exported files, as it stands in `run.json` and in the files: told in lines, or as one error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.errors import ModelError, Problems
from sdtune.formats.consumers.table import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Told = Mapping[str, Mapping[str, Mapping[str, object]]]

FAULT = "fault"
REMEDY = "the file is kept; docs/certificate.md tells the remedies"


def describe_faults(files: Told) -> Iterator[str]:
    """Name program, file and reason, a line for each.

    Args:
        files: Name to what is told of the file, as `Certificate.facts`.
    """
    for file, rows in files.items():
        for program, facts in rows.items():
            if FAULT in facts:
                yield f"{TITLES[program]} does not use {file} as trained: {facts[FAULT]}"


def raise_if_faulty(files: Told) -> None:
    """Refuse files that a program would read otherwise than they were trained.

    Args:
        files: As `describe_faults`.

    Raises:
        ModelError: Names program, key and reason, for each.
    """
    problems = Problems(ModelError)
    for line in describe_faults(files):
        problems.add(line, hint=REMEDY)
    problems.raise_if_any()
