"""How long steps took on this machine, remembered in the user's cache for the forecasts of later runs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.errors import PlatformError
from sdtune.files import write_text
from sdtune.paths import user_cache_folder
from sdtune.train.watching.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sdtune.train.run import Run
    from sdtune.train.watching.observers import StepReport

_WARMUP, _FEWEST, _MOST = 2, 3, 500  # steps that are not counted, that must be left, and records that stay


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKey:
    """What a step's time hangs on.

    Attributes:
        device: The GPU's name, or the CPU's and how many threads compute.
        precision: Compute dtype.
        model: Family and size of the UNet.
        method: Name of the method and how many elements it trains.
        work: Pixels, batch, accumulation, checkpointing.
    """

    device: str
    precision: str
    model: str
    method: str
    work: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of a step, and how they are known."""

    seconds: float
    source: str


def step_key(run: Run) -> StepKey:
    """Tell what the time of a run's steps hangs on."""
    train, source = run.options.train, run.model.source
    size = sum(parameter.numel() for parameter in run.model.part("unet").parameters())
    trained = sum(parameter.numel() for parameter in run.parameters().values())
    width, height = run.options.data.size_px
    checkpointing = ", checkpointing" if train.gradient_checkpointing else ""
    return StepKey(
        device=_device_name(run.device),
        precision=str(source.dtype).removeprefix("torch."),
        model=f"{run.model.family}, {size} elements",
        method=f"{run.spec.name}, {trained} elements",
        work=f"{width}x{height}, {train.batch_size} x {train.gradient_accumulation}{checkpointing}",
    )


def step_time(key: StepKey, flops: int) -> StepTime | None:
    """Tell a step's time: as it was measured, or scaled from the likest run of this device and precision."""
    records = [record for record in _read() if record.key.device == key.device]
    if exact := [record for record in records if record.key == key]:
        return StepTime(seconds=exact[-1].seconds, source="measured on this machine")
    alike = [record for record in records if record.key.precision == key.precision and record.flops and flops]
    if not alike:
        return None
    best = min(alike, key=lambda record: (record.key.model != key.model, _distance(record.flops, flops)))
    return StepTime(seconds=best.seconds * flops / best.flops, source=f"from a run at {best.key.work}")


class StepTimeObserver(Observer):
    """Remember the median step time of a run."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def on_step(self, run: Run, report: StepReport) -> None:
        """Note a step's time."""
        self._seconds.append(report.seconds)

    def on_end(self, run: Run, step: int) -> None:
        """Keep the median for later runs."""
        counted = self._seconds[_WARMUP:]
        if len(counted) >= _FEWEST:
            key = step_key(run)
            flops = run.forecast.flops if run.forecast else max((r.flops for r in _read() if r.key == key), default=0)
            _write(_Record(key=key, seconds=statistics.median(counted), flops=flops))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    key: StepKey
    seconds: float
    flops: int


def _distance(first: int, second: int) -> float:
    return max(first, second) / min(first, second)


def _path() -> Path:
    return user_cache_folder() / "step-times.json"


def _read() -> list[_Record]:
    return list(_records())


def _records() -> Iterator[_Record]:
    try:
        entries = json.loads(_path().read_text(encoding="utf-8"))
        for entry in entries:
            yield _Record(key=StepKey(**entry["key"]), seconds=float(entry["seconds"]), flops=int(entry["flops"]))
    except (OSError, ValueError, TypeError, KeyError):  # damaged, of another version, or none yet: a time less known
        return


def _write(record: _Record) -> None:
    kept = [other for other in _read() if other.key != record.key]
    text = json.dumps([asdict(entry) for entry in [*kept, record][-_MOST:]], indent=1)
    try:
        write_text(_path(), text, overwrite=True)
    except PlatformError:  # only a time less known
        return


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
