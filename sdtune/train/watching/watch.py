"""The watch over a run: looks now and then, warns once of each thing, and never waits for the device by itself."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import torch

from sdtune.train.machine.memory import current_memory_bytes
from sdtune.train.watching.movement import Movement
from sdtune.train.watching.numerics import listed
from sdtune.train.watching.observers import Observer
from sdtune.train.watching.trends import Growth, Pace, UpdateSize

if TYPE_CHECKING:
    from sdtune.train.run import Run
    from sdtune.train.watching.observers import StepReport

logger = logging.getLogger(__name__)
_LOOKS = 10  # looks after which a layer that stood still is told
_FULL = 0.95


class Watch(Observer):
    """Watches losses, gradients, updates, speed and memory.

    The trainer calls `before`, `see_gradients` and `after` around each update; numbers stay on the device until a step
    is logged.
    """

    def __init__(self, run: Run) -> None:
        self._options = run.options.watch
        self._movement = Movement(run.groups)
        self._pace = Pace()
        self._growth = Growth()
        self._sizes = {group.name: UpdateSize() for group in run.groups}
        self._told: set[str] = set()
        self._device = run.device
        self._is_looking = False
        self._memory_bytes = 0

    def before(self, step: int) -> None:
        """Begin step `step`, counted from 1; every so often it is looked at."""
        every = self._options.every_steps
        self._is_looking = every is not None and step % every == 0
        if self._is_looking:
            self._movement.begin()

    def see_gradients(self) -> None:
        """Look at the gradients, before they are used."""
        if self._is_looking:
            self._movement.see_gradients()

    def after(self, *, is_applied: bool) -> None:
        """Look at the new values; a step that was passed over tells nothing."""
        if self._is_looking and is_applied:
            self._movement.end()
            self._memory_bytes = current_memory_bytes(self._device)

    def metrics(self) -> dict[str, float]:
        """Give the update ratios of the last look, once; reading them waits for the device."""
        return {f"update_ratio/{name}": ratio for name, ratio in self._movement.read_ratios().items()}

    def on_step(self, run: Run, report: StepReport) -> None:
        """Judge what was found."""
        self._judge_pace(run, report)
        for group, size in self._sizes.items():
            if (ratio := report.metrics.get(f"update_ratio/{group}")) is not None:
                self._judge_size(group, ratio, size.add(ratio, report.lrs.get(group, 0.0)))
        if self._memory_bytes:
            self._judge_growth(report.step, self._memory_bytes)
            self._memory_bytes = 0
        if self._movement.looks >= _LOOKS:
            self._judge_standstill(report.step)

    def _judge_pace(self, run: Run, report: StepReport) -> None:
        if found := self._pace.add(report.seconds):
            usual, now = found
            spilled = "; the GPU's memory is full" if _is_full(run.device) else ""
            if spilled and sys.platform == "win32":
                spilled += ", and Windows moves what does not fit into shared memory: make the batch smaller"
            self._warn_once("pace", f"steps take {now:.2f} s, {now / usual:.1f} times as long as before{spilled}")

    def _judge_size(self, group: str, ratio: float, verdict: str) -> None:
        if verdict:
            text = f"the learning rate of {group} is probably {verdict}: a step changes it by {ratio:.1e} of its size"
            self._warn_once(f"{verdict} {group}", text)

    def _judge_growth(self, step: int, size_bytes: int) -> None:
        if found := self._growth.add(step, size_bytes):
            first, gained, steps = found
            text = f"memory grows: {gained / 2**20:.0f} MiB since step {first}, {gained / steps / 2**20:.2f} MiB a step"
            self._warn_once("growth", text)

    def _judge_standstill(self, step: int) -> None:
        found = self._movement.standstill()
        if names := found.without_gradient:
            text = f"{len(names)} of {found.layers} trained layers got no gradient up to step {step}: {listed(names)}"
            self._warn_once("no gradient", text)
        if names := found.unmoved:
            text = f"{len(names)} of {found.layers} trained layers did not move up to step {step}: {listed(names)}"
            self._warn_once("unmoved", f"{text}; the learning rate is too low for their precision")

    def _warn_once(self, topic: str, text: str) -> None:
        if topic not in self._told:
            self._told.add(topic)
            logger.warning("%s", text)


def _is_full(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    total = torch.cuda.get_device_properties(device).total_memory
    return torch.cuda.memory_reserved(device) > _FULL * total
