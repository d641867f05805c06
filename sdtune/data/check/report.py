"""The doctor's report: as text for people, as plain values for programs."""

from __future__ import annotations

import os
from itertools import groupby
from typing import TYPE_CHECKING, Any

from sdtune.data.check.diagnosis import plural
from sdtune.data.check.kinds import KINDS, SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sdtune.data.check.diagnosis import Diagnosis
    from sdtune.data.check.finding import Finding
    from sdtune.data.check.survey import SeenFolder

FORMAT = 1
PLACES = 8


def to_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    """Give plain values; names and meanings stay, new ones may be added."""
    survey = diagnosis.survey
    return {
        "format": FORMAT,
        "path": str(survey.root),
        "folders": [_folder_dict(folder) for folder in survey.folders],
        "counts": {f"{severity}s": diagnosis.count(severity) for severity in SEVERITIES},
        "findings": [_finding_dict(finding) for finding in diagnosis.findings],
    }


def render(diagnosis: Diagnosis, places: int | None = PLACES) -> str:
    """Write the report.

    Args:
        diagnosis: What was found.
        places: How many places of each kind are shown; None: all.
    """
    survey = diagnosis.survey
    lines = [*_tree(survey.folders, survey.root), *_resolution(diagnosis)]
    for kind, group in groupby(diagnosis.findings, key=lambda finding: finding.kind):
        findings = list(group)
        lines += ["", f"{kind.severity}  {kind.name}  ({len(findings)})", f"  {kind.why}"]
        shown = findings if places is None else findings[:places]
        for remedy, same in groupby(shown, key=lambda finding: finding.remedy):
            lines += [f"    {_short(finding.place, survey.root)}: {finding.message}" for finding in same]
            lines.append(f"  -> {remedy}")
        if len(findings) > len(shown):
            lines.append(f"    and {len(findings) - len(shown)} more; --all shows them")
    return "\n".join([*lines, "", _verdict(diagnosis)])


def kinds_table() -> str:
    """Write all kinds of defect as a table for the documentation."""
    rows = [f"| `{kind.name}` | {kind.severity} | {kind.why} |" for kind in KINDS]
    return "\n".join(["| kind | severity | why it matters |", "|---|---|---|", *rows])


def _tree(folders: Sequence[SeenFolder], root: Path) -> Iterator[str]:
    """Draw the folders with what is in them and how often it is seen."""
    yield str(root)
    rows = [(_short(str(folder.path), root), _contents(folder)) for folder in folders]
    width = max((len(name) for name, _ in rows), default=0)
    for name, contents in rows:
        yield f"  {name:<{width}}  {contents}"


def _contents(folder: SeenFolder) -> str:
    count = len(folder.images)
    if not count:
        return "no images"
    captioned = sum(image.caption is not None for image in folder.images)
    repeats = f"{folder.repeats:g} x {count} images = {folder.repeats * count:g} per epoch"
    text = f"{repeats}, {captioned} of {count} with captions"
    if folder.role != "training":
        text += f" ({folder.role})"
    return text if folder.is_read else f"{text}; not read"


def _resolution(diagnosis: Diagnosis) -> Iterator[str]:
    run = diagnosis.survey.run
    about = "tokens are estimated; --model counts them" if run.is_estimate else "tokens are counted"
    yield f"  checked for {run.size} px, batches of {run.batch_size}; {about}"


def _verdict(diagnosis: Diagnosis) -> str:
    counts = [(severity, diagnosis.count(severity)) for severity in SEVERITIES]
    text = ", ".join(plural(count, severity) for severity, count in counts if count) or "nothing to mend"
    if diagnosis.count("error"):
        text += "; a run would not start"
    mended = sum(bool(finding.script) for finding in diagnosis.findings)
    return f"{text}; --fix-script FILE writes commands for {mended} of them" if mended else text


def _short(place: str, root: Path) -> str:
    """Leave the folder that was looked at out of a place."""
    name = str(root)
    if place == name:
        return root.resolve().name
    return place.removeprefix(name + os.sep) if place.startswith(name + os.sep) else place


def _folder_dict(folder: SeenFolder) -> dict[str, Any]:
    return {
        "path": str(folder.path),
        "role": folder.role,
        "is_read": folder.is_read,
        "images": len(folder.images),
        "captions": sum(image.caption is not None for image in folder.images),
        "caption_source": folder.caption_source,
        "repeats": folder.repeats,
        "per_epoch": folder.repeats * len(folder.images),
    }


def _finding_dict(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind.name,
        "severity": finding.kind.severity,
        "place": finding.place,
        "message": finding.message,
        "why": finding.kind.why,
        "remedy": finding.remedy,
        "script": list(finding.script),
    }
