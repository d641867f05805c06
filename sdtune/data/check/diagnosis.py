"""All checks, and what they find together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdtune.data.check import arrangement, captions, files, geometry, likeness, tags, trigger
from sdtune.data.check.kinds import KINDS, REFUSED, SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sdtune.data.check.finding import Finding, Severity
    from sdtune.data.check.survey import Survey

    Check = Callable[[Survey], Iterable[Finding]]

CHECKS: tuple[Check, ...] = (
    files.faulty_images,
    files.foreign_formats,
    files.small_images,
    files.wrong_extensions,
    files.turned_images,
    files.odd_colors,
    files.transparent_images,
    files.animations,
    files.huge_files,
    files.soft_images,
    files.plain_images,
    likeness.exact_duplicates,
    likeness.like_pictures,
    likeness.same_stems,
    likeness.case_names,
    captions.missing_captions,
    captions.mixed_captions,
    captions.empty_captions,
    captions.undecodable_captions,
    captions.orphan_captions,
    captions.several_lines,
    captions.long_captions,
    tags.typos,
    tags.one_value_tags,
    tags.repeated_tags,
    tags.contradictions,
    trigger.trigger_missing,
    trigger.trigger_words,
    geometry.tiny_images,
    geometry.bucket_costs,
    arrangement.no_images,
    arrangement.regularization_inside,
    arrangement.unread_folders,
    arrangement.ignored_files,
    arrangement.leaf_folder,
    arrangement.image_count,
    arrangement.repeats,
    arrangement.run_length,
    arrangement.class_images,
    arrangement.masks,
    arrangement.refusals,
)
_RANK = {kind: rank for rank, kind in enumerate(KINDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was found in a data set.

    Attributes:
        survey: What was looked at.
        findings: In the order of their kinds, errors first.
    """

    survey: Survey
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """Count the findings of a severity."""
        return sum(finding.kind.severity == severity for finding in self.findings)

    def summary(self) -> str:
        """Say in one line what was found: `2 warnings: 1 blurred, 1 near-duplicate; 3 notes`."""
        parts = []
        for severity in SEVERITIES:
            kinds = Counter(finding.kind.name for finding in self.findings if finding.kind.severity == severity)
            named = ", ".join(f"{count} {name}" for name, count in kinds.items())
            if kinds:
                told = f": {named}" if severity != "note" else ""
                parts.append(plural(kinds.total(), severity) + told)
        return "; ".join(parts) or "nothing found"


def diagnose(survey: Survey) -> Diagnosis:
    """Look for every kind of defect."""
    found = [finding for check in CHECKS for finding in check(survey)]
    errors = [finding for finding in found if finding.kind.severity == "error" and finding.kind != REFUSED]
    # A run that refuses names what is told here already; what no check explains stays.
    kept = [finding for finding in found if finding.kind != REFUSED or not errors]
    return Diagnosis(survey=survey, findings=tuple(sorted(kept, key=lambda finding: _RANK[finding.kind])))


def plural(count: int, word: str) -> str:
    """Write a number and a word."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
