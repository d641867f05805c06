"""The measurements of held-out images that a run has made, kept in its folder."""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.files import write_text
from sdtune.train.validation.measuring import ValidationResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """A measurement and its step; step 0 is the base model."""

    step: int
    result: ValidationResult


class History:
    """The measurements of a run, one JSON line each.

    Args:
        path: The file.
        is_written: Whether this process writes it.

    Attributes:
        measured: In order of their steps.
    """

    def __init__(self, path: Path, *, is_written: bool = True) -> None:
        self._path = path
        self._is_written = is_written
        self.measured: list[Measurement] = []

    def load(self, step: int) -> None:
        """Read what was measured up to a step; drop what a resumed run will measure again, and half a line."""
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines and self._is_written:
            write_text(self._path, "".join(kept), overwrite=True)
        self.measured = [_measurement(json.loads(line)) for line in kept]

    def add(self, measurement: Measurement, seconds: float) -> None:
        """Append a measurement."""
        self.measured.append(measurement)
        if not self._is_written:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_line(measurement, seconds)) + "\n")

    def has(self, step: int) -> bool:
        """Tell whether a step was measured."""
        return any(item.step == step for item in self.measured)

    @property
    def base(self) -> Measurement | None:
        """The model before training."""
        return next((item for item in self.measured if item.step == 0), None)

    @property
    def trained(self) -> list[Measurement]:
        """All but the base."""
        return [item for item in self.measured if item.step > 0]

    @property
    def best(self) -> Measurement | None:
        """The trained step with the lowest loss; of equals the first."""
        sound = [item for item in self.trained if math.isfinite(item.result.loss)]
        return min(sound, key=lambda item: item.result.loss, default=None)

    def waited(self, min_delta: float) -> int:
        """Count the measurements since one was lower, by more than `min_delta`, than the best that counted so."""
        lowest, waited = math.inf, 0
        for item in self.trained:
            if item.result.loss < lowest - min_delta:
                lowest, waited = item.result.loss, 0
            else:
                waited += 1
        return waited


def _line(item: Measurement, seconds: float) -> dict[str, Any]:
    result, error = item.result, item.result.standard_error
    return {
        "step": item.step,
        "loss": result.loss,
        "standard_error": error if math.isfinite(error) else None,
        "objective": result.objective,
        "bins": result.bins,
        "images": result.images,
        "seconds": round(seconds, 4),
        "time": round(time.time(), 3),
    }


def _measurement(line: Mapping[str, Any]) -> Measurement:
    result = ValidationResult(images=line["images"], bins=tuple(line["bins"]), objective=line["objective"])
    return Measurement(step=line["step"], result=result)
