"""The proof that a file does elsewhere what was trained: read back as each program reads it, applied, and compared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from sdtune.errors import ModelError, Problems
from sdtune.export.probe import Probe, ask, distances
from sdtune.export.weights import compare_weights, file_changes
from sdtune.formats.consumers.applying import applied, view_of
from sdtune.formats.consumers.reading import File, Reading, Use
from sdtune.formats.consumers.table import AS_MEANT, CONSUMERS, DEFINITION, TITLES
from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdtune.export.weights import Changes, WeightError
    from sdtune.formats.consumers.reading import BaseView, Reader
    from sdtune.models.base import DiffusionModel

    Answers = Mapping[str, Tensor]

FAMILIES = frozenset({"sd1", "sd2", "sdxl"})
READABLE = frozenset({".safetensors", ".pt"})
METADATA_KEY = "sdtune.certificate"
# Error over the change of the answer that a correct reading may show. A number keeps 24, 11 or 8 bits, and a low-rank
# product of rounded factors is off by a few of its last ones: measured 4e-6, 1e-4 to 8e-4, and 1e-3. A scale that is
# wrong by a tenth is beyond each of them.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 5e-2}
# Beside it an error may be a few times what rounding alone does to the answer, which is measured: see `_rounded`.
_NOISES = 1.5
_HIDES = 0.25  # in a change less than four times the noise, half of it could be missing and not be seen


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
        return "good" if self.error <= max(_TOLERANCE.values()) else "good: so much is rounding"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """All files in all programs.

    Attributes:
        rows: File by file.
        chosen: Programs the files must work in; in others only what does not lie in their nature is wrong.
        effect: Change of the answer over the answer; None when it is too small to compare.
    """

    rows: tuple[Row, ...]
    chosen: tuple[str, ...] = ()
    effect: float | None = None

    def faults(self) -> list[tuple[Row, str]]:
        """List what is wrong."""
        found = [(row, row.fault(is_chosen=row.consumer in self.chosen)) for row in self.rows]
        return [(row, fault) for row, fault in found if fault]

    def raise_if_faulty(self) -> None:
        """Refuse a file that a program would read otherwise than it was trained.

        Raises:
            ModelError: Names program, key and reason, for each.
        """
        problems = Problems(ModelError)
        for row, fault in self.faults():
            problems.add(f"{TITLES[row.consumer]} does not use {row.file} as trained: {fault}", hint=_HINT)
        problems.raise_if_any()

    def warnings(self) -> list[str]:
        """Name, for each file, the programs that by their nature cannot use it as trained."""
        found: dict[str, list[str]] = {}
        for row in self.rows:
            if row.is_natural and row.consumer not in self.chosen:
                found.setdefault(row.file, []).append(TITLES[row.consumer])
        return [
            f"{file} works otherwise than trained in {', '.join(names)}; see the table" for file, names in found.items()
        ]

    def facts(self, file: str) -> dict[str, object]:
        """Give what is told of one file: program to its row."""
        return {row.consumer: row.facts() for row in self.rows if row.file == file}

    def report(self, file: str) -> dict[str, object]:
        """Give everything found of one file, for a machine."""
        return {
            row.consumer: row.facts()
            | {
                "verdict": row.verdict,
                "skipped": dict(row.skipped),
                "unknown": dict(row.unknown),
                "wrong": row.is_wrong,
            }
            for row in self.rows
            if row.file == file
        }

    def render(self) -> str:
        """Draw the table, file by file."""
        lines = []
        for file in dict.fromkeys(row.file for row in self.rows):
            effect = "" if self.effect is None else f", which changes the model's answer by {_percent(self.effect)}"
            lines.append(f"read back as other programs do: {file}{effect}")
            for row in (row for row in self.rows if row.file == file):
                keys = "" if row.refused or row.unsupported else f"{row.used} of {row.total} keys"
                error = "" if row.error is None else f"error {_percent(row.error)}"
                weights = "" if row.weights is None else f"weights {_percent(row.weights.error)}"
                lines.append(
                    f"  {TITLES[row.consumer]:<18}  {keys:<20}  {error:<13}  {weights:<15}  {row.verdict}".rstrip()
                )
                lines += [f"  {'':<18}  it takes the model to predict {row.predicts}"] if row.predicts else []
        return "\n".join(lines)


_HINT = "the file is kept; docs/certificate.md tells the remedies"


def certify(
    files: Sequence[File],
    base: DiffusionModel,
    probe: Probe,
    *,
    trained: Answers | None,
    weights: Changes | None = None,
    chosen: Sequence[str] = (),
    asked: Sequence[str] = (),
) -> Certificate:
    """Read files as each program does, apply them together to a base model, and compare its answers.

    Args:
        files: The files.
        base: The base model, untouched, with `probe.parts` loaded; it is so again afterwards.
        probe: What is asked.
        trained: The trained model's answers; None: those of the file as it was meant.
        weights: The trained model's weights, as changes of the base model's; None: not compared with `trained`, else
            those of the file as it was meant.
        chosen: Programs the files must work in.
        asked: Programs to ask; empty: the chosen ones, or all where none is chosen.
    """
    view, plain = view_of(base), ask(base, probe)

    def read(reader: Reader) -> tuple[list[Reading], Answers | None]:
        readings = [reader(file, view, base) for file in files]
        if any(reading.refused or reading.unsupported for reading in readings):
            return readings, None
        with applied(base, readings):
            return readings, ask(base, probe)

    meant = read(DEFINITION)
    wanted = meant[1] if trained is None else trained
    if trained is None and wanted is not None:
        weights = file_changes(meant[0])
    scale = None
    if wanted is not None:
        with applied(base, [_rounded(view, _coarsest(files, base.source.dtype))]):
            scale = _Scale.measure(plain, wanted, ask(base, probe), files)

    def judge(name: str, readings: list[Reading], answers: Answers | None) -> list[Row]:
        found = None
        if answers is not None and weights is not None:
            found = compare_weights(
                base, file_changes(readings), weights, tolerance=_tolerance(files), rounding=_rounding(files)
            )
        error, is_wrong = (None, False) if answers is None or scale is None else scale.judge(answers)
        is_wrong = is_wrong or (found is not None and found.is_wrong)
        judged = zip(files, readings, strict=True)
        return [make_row(name, file, reading, error, found, is_wrong=is_wrong) for file, reading in judged]

    rows: list[Row] = []
    for name in asked or chosen or CONSUMERS:
        rows += judge(name, *read(CONSUMERS[name]))
    if trained is not None:
        rows = [row for row in judge(AS_MEANT, *meant) if row.fault(is_chosen=True)] + rows
    order = {file.path.name: place for place, file in enumerate(files)}
    rows.sort(key=lambda row: order[row.file])
    return Certificate(rows=tuple(rows), chosen=tuple(chosen), effect=scale.effect if scale else None)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """What an error is measured by.

    Attributes:
        wanted: The answers that are right.
        change: By how much each differs from the base model's.
        noise: How much of that difference rounding alone may be.
        effect: The greatest change over the answer; None when none stands out of the noise.
        tolerance: Error over change that is still rounding.
    """

    wanted: Answers
    change: Mapping[str, float]
    noise: Mapping[str, float]
    effect: float | None
    tolerance: float

    @classmethod
    def measure(cls, plain: Answers, wanted: Answers, rounded: Answers, files: Sequence[File]) -> _Scale:
        change, noise = distances(wanted, plain), distances(rounded, plain)
        effects = [change[n] / max(float(wanted[n].norm()), 1e-12) for n in change if noise[n] < _HIDES * change[n]]
        return cls(
            wanted=wanted,
            change=change,
            noise=noise,
            effect=max(effects, default=None),
            tolerance=_tolerance(files),
        )

    def judge(self, answers: Answers) -> tuple[float | None, bool]:
        """Give the error, where there is an effect, and whether it is more than rounding."""
        found = distances(answers, self.wanted)
        is_wrong = any(
            not found[name] <= self.tolerance * self.change[name] + _NOISES * self.noise[name] for name in found
        )
        if self.effect is None:
            return None, is_wrong
        errors = [found[n] / self.change[n] for n in found if self.noise[n] < _HIDES * self.change[n]]
        return max(errors), is_wrong


def _tolerance(files: Sequence[File]) -> float:
    return max(_TOLERANCE[_narrowest(file)] for file in files)


def _rounding(files: Sequence[File]) -> float:
    """Give how much of a weight rounding may be: of whole weights, or less than float16 shows of a weight."""
    return torch.finfo(_coarsest(files, torch.float16)).eps / (1 if _holds_model(files) else 4)


def _holds_model(files: Sequence[File]) -> bool:
    return any(file.kind == "checkpoint" for file in files)


def _coarsest(files: Sequence[File], computed: torch.dtype) -> torch.dtype:
    """Give the dtype of fewest bits that whole weights are held in: the model's, or a checkpoint's."""
    dtypes = [computed, *(_narrowest(file) for file in files if file.kind == "checkpoint")]
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _rounded(view: BaseView, dtype: torch.dtype) -> Reading:
    """Move every weight by what rounding to a dtype may do, each by its own chance."""
    roundoff = torch.finfo(dtype).eps / 2

    def moved(name: str) -> Use:
        def change(weight: Tensor) -> Tensor:
            draw = torch.rand(weight.shape, generator=derive_generator(0, "rounding", name)).to(weight.device)
            return weight * (1 + roundoff * (2 * draw - 1))

        return Use(target=name, keys=(), change=change)

    return Reading(uses=[moved(name) for name in view.shapes])


def _narrowest(file: File) -> torch.dtype:
    """Give the float dtype of fewest bits in a file; a scalar's does not count."""
    dtypes = {tensor.dtype for tensor in file.tensors.values() if tensor.is_floating_point() and tensor.dim()}
    return max(dtypes & _TOLERANCE.keys(), key=lambda dtype: _TOLERANCE[dtype], default=torch.float32)


def write_certificate(path: Path, facts: Mapping[str, object]) -> None:
    """Write a certificate into a safetensors file's metadata; tensors and the hashes over them stay.

    Raises:
        PlatformError: The file cannot be written.
    """
    from sdtune.files import writing

    with path.open("rb") as old, writing(path, overwrite=True) as draft, draft.open("wb") as new:
        header = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        metadata = header.get("__metadata__", {}) | {METADATA_KEY: json.dumps(facts)}
        text = json.dumps(
            header | {"__metadata__": dict(sorted(metadata.items()))}, ensure_ascii=False, separators=(",", ":")
        ).encode(errors="replace")
        text += b" " * (-len(text) % 8)
        new.write(len(text).to_bytes(8, "little") + text)
        while chunk := old.read(1 << 24):
            new.write(chunk)


def _first(reasons: Mapping[str, str]) -> str:
    key, reason = next(iter(sorted(reasons.items())))
    return f"{key} ({reason})"


def _percent(value: float) -> str:
    return "0 %" if value == 0 else f"{100 * value:.{max(0, 1 - math.floor(math.log10(100 * value)))}f} %"
