"""What one program makes of one file, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.export.weights import WeightError
    from sdtune.formats.consumers.reading import File, Reading

MOST_ROUNDING = 5e-2  # beyond it an error stands in the noise that rounding alone makes


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One file in one program.

    Attributes:
        consumer: Name of the program.
        file: Name of the file.
        used: Keys that have an effect, or need none.
        total: Keys of the file.
        skipped: Key to reason.
        unknown: Key to reason, for what the program knows nothing of by nature.
        refused: Why it is not loaded; empty when it is.
        unsupported: Why such files are never loaded; empty when they are.
        weakness: Why the program, by its nature, may do something else with such files; empty when it does not.
        mistake: What it takes the file for, and it is not; empty when it makes no mistake.
        predicts: Of a checkpoint: what it takes the model to predict, and how it knows.
        error: Greatest error over the change of the answer; None when it was not compared.
        weights: Greatest error over the change of a weight; None when no weights were compared.
        is_wrong: One of them is more than rounding.
    """

    consumer: str
    file: str
    used: int
    total: int
    skipped: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""
    unsupported: str = ""
    weakness: str = ""
    mistake: str = ""
    predicts: str = ""
    error: float | None = None
    weights: WeightError | None = None
    is_wrong: bool = False

    @property
    def verdict(self) -> str:
        """Say in a few words how the file fares."""
        if self.refused or self.unsupported:
            return f"refused: {self.refused}" if self.refused else f"not supported: {self.unsupported}"
        if self.skipped:
            return f"{len(self.skipped)} skipped: {_first(self.skipped)}"
        if self.unknown:
            return f"in part: {_first(self.unknown)}"
        if self.is_otherwise:
            return f"wrong by nature: {self.weakness}" if self.weakness else self.mistake or self._effect
        if self.error is None:
            return "good, no effect to compare"
        # an error beyond all tolerances stands in the noise, which rounding alone makes: see `_Scale.judge`
        return "good" if self.error <= MOST_ROUNDING else "good: so much is rounding"

    @property
    def is_otherwise(self) -> bool:
        """Whether it computes, or takes the file for, something else."""
        return self.is_wrong or bool(self.mistake)

    @property
    def is_natural(self) -> bool:
        """Whether what is wrong lies in the program's nature, so that no exporter could do better."""
        if self.refused or self.skipped:
            return False
        return bool(self.unsupported or self.unknown or (self.weakness and self.is_otherwise))

    @property
    def _effect(self) -> str:
        where = f": {self.weights.target}" if self.weights is not None and self.weights.is_wrong else ""
        return f"another effect than trained{where}"

    def fault(self, *, is_chosen: bool) -> str:
        """Say what is wrong; empty when nothing is. What a program never knew is wrong only where it was chosen."""
        if self.is_natural:
            return self.verdict if is_chosen else ""
        return self.verdict if self.refused or self.skipped or self.is_otherwise else ""

    def facts(self) -> dict[str, object]:
        """Give what is written into the file."""
        if self.unsupported:
            return {"not_supported": self.unsupported}
        errors = {"error": self.error, "weights": None if self.weights is None else self.weights.error}
        rounded = {name: None if error is None else float(f"{error:.2g}") for name, error in errors.items()}
        predicts = {"predicts": self.predicts} if self.predicts else {}
        return {"used": self.used, "total": self.total, **rounded, **predicts}


def make_row(
    consumer: str, file: File, reading: Reading, error: float | None, weights: WeightError | None, *, is_wrong: bool
) -> Row:
    """Join what a program makes of a file, and how it compares."""
    used = len(reading.used_keys())
    total = len(file.tensors) or used + len(reading.skipped) + len(reading.unknown)
    return Row(
        consumer=consumer,
        file=file.path.name,
        used=used,
        total=total,
        skipped=reading.skipped,
        unknown=reading.unknown,
        refused=reading.refused,
        unsupported=reading.unsupported,
        weakness=reading.weakness,
        mistake=reading.mistake,
        predicts=reading.predicts,
        error=error,
        weights=weights,
        is_wrong=is_wrong,
    )


def _first(reasons: Mapping[str, str]) -> str:
    key, reason = next(iter(sorted(reasons.items())))
    return f"{key} ({reason})"
