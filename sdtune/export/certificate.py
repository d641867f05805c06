"""The proof that a file does elsewhere what was trained: read back as each program reads it, applied, and compared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.errors import ModelError, Problems
from sdtune.export.faults import FAULT, REMEDY
from sdtune.export.probe import Probe, ask, distances
from sdtune.export.row import MOST_ROUNDING, Row, make_row
from sdtune.export.weights import (
    Trained,
    compare,
    file_changes,
    file_words,
    measure_rounding,
)
from sdtune.formats.consumers.applying import applied, view_of
from sdtune.formats.consumers.reading import File, Reading, Use
from sdtune.formats.consumers.table import AS_MEANT, CONSUMERS, DEFINITION, TITLES
from sdtune.randomness import derive_generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView, Reader
    from sdtune.models.base import DiffusionModel

    Answers = Mapping[str, Tensor]

FAMILIES = frozenset({"sd1", "sd2", "sdxl"})
READABLE = frozenset({".safetensors", ".pt", ".png"})
METADATA_KEY = "sdtune.certificate"
# Error over the change of the answer that a correct reading may show. A number keeps 24, 11 or 8 bits, and a low-rank
# product of rounded factors is off by a few of its last ones: measured 4e-6, 1e-4 to 8e-4, and 1e-3. A scale that is
# wrong by a tenth is beyond each of them.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: MOST_ROUNDING}
# Beside it an error may be a few times what rounding alone does to the answer, which is measured: see `_rounded`.
_NOISES = 1.5
_HIDES = 0.25  # in a change less than four times the noise, half of it could be missing and not be seen


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

    def raise_beside_table(self) -> None:
        """Refuse such a file where the table was shown: it has said what is wrong, and each program is named alone.

        Raises:
            ModelError: Names the programs of each file; with several skipped keys, those that the table does not show.
        """
        problems, found = Problems(ModelError), self.faults()
        for file in dict.fromkeys(row.file for row, _ in found):
            names = ", ".join(TITLES[row.consumer] for row, _ in found if row.file == file)
            problems.add(f"{file} does not work as trained in {names}; see the table", hint=REMEDY)
        for row, _ in found:
            if len(row.skipped) > 1:
                rest = sorted(row.skipped)[1:]
                more = f" and {len(rest) - _SHOWN} more" if len(rest) > _SHOWN else ""
                problems.add(f"{TITLES[row.consumer]} also skips {', '.join(rest[:_SHOWN])}{more}")
        problems.raise_if_any()

    def warnings(self) -> list[str]:
        """Name, for each file, the programs that by their nature cannot use it as trained."""
        found: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            if row.is_natural and row.consumer not in self.chosen:
                what = "cannot be used" if row.unsupported else "works otherwise than trained"
                found.setdefault((row.file, what), []).append(TITLES[row.consumer])
        return [f"{file} {what} in {', '.join(names)}; see the table" for (file, what), names in found.items()]

    def facts(self, file: str) -> dict[str, dict[str, object]]:
        """Give what is told of one file: program to its row, and what is wrong."""
        wrong = {row.consumer: {FAULT: fault} for row, fault in self.faults() if row.file == file}
        return {row.consumer: row.facts() | wrong.get(row.consumer, {}) for row in self.rows if row.file == file}

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


_SHOWN = 3


def certify(
    files: Sequence[File],
    base: DiffusionModel,
    probe: Probe,
    *,
    trained: Answers | None,
    weights: Trained | None = None,
    chosen: Sequence[str] = (),
    asked: Sequence[str] = (),
) -> Certificate:
    """Read files as each program does, apply them together to a base model, and compare its answers.

    Args:
        files: The files.
        base: The base model, untouched, with `probe.parts` loaded; it is so again afterwards.
        probe: What is asked.
        trained: The trained model's answers; None: those of the file as it was meant.
        weights: The trained model's layers; None: not compared with `trained`, else with the file as it was meant.
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
        weights = Trained(changes=file_changes(meant[0]), words=file_words(meant[0]))
    rounding = measure_rounding(base, files, view) if weights is not None else {}
    scale = None
    if wanted is not None:
        with applied(base, [_rounded(view, _coarsest(files, base.source.dtype))]):
            scale = _Scale.measure(plain, wanted, ask(base, probe), files)

    def judge(name: str, readings: list[Reading], answers: Answers | None) -> list[Row]:
        found = None
        if answers is not None and weights is not None:
            found = compare(base, readings, weights, rounding, step=_step(files, base.source.dtype))
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


def _step(files: Sequence[File], computed: torch.dtype) -> float:
    """Give the step of the dtype of fewest bits among files' and the model's, which programs may hold vectors in."""
    return max(torch.finfo(dtype).eps for dtype in (computed, *map(_narrowest, files)))


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


def _percent(value: float) -> str:
    return "0 %" if value == 0 else f"{100 * value:.{max(0, 1 - math.floor(math.log10(100 * value)))}f} %"
