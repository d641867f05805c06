"""One training loop for all stages: warmup and cosine, checkpoints by the clock, resume, optional EMA."""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import platform
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

logger = logging.getLogger(__name__)
_CHECKPOINT_EVERY_S = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast one stage trains."""

    steps: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.0

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step: linear warmup, then a cosine down to two per cent."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def hardware(device: torch.device) -> str:
    """Return a phrase that says where a stage ran."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} CPU cores ({platform.machine()})"


def record(work: Path, stage: str, **facts: Any) -> None:
    """Merge facts about a stage into the work folder's timings.json."""
    path = work / "timings.json"
    known: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault(stage, {}).update(facts)
    path.write_text(json.dumps(known, indent=2) + "\n")


def generator(seed: int, step: int) -> torch.Generator:
    """Return the random stream of one step: a resumed run draws what an uninterrupted one draws."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


class Stage:
    """A module in training together with its optimizer, EMA copy and step count."""

    def __init__(self, name: str, module: torch.nn.Module, schedule: Schedule, work: Path) -> None:
        self.name, self.module, self.schedule, self.work = name, module, schedule, work
        self.path = work / f"{name}.ckpt"
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=schedule.lr, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
        )
        self.ema = copy.deepcopy(module).eval().requires_grad_(False) if schedule.ema_decay else module
        self.step, self.spent_s = 0, 0.0

    def resume(self) -> None:
        """Load the newest checkpoint of the work folder if there is one."""
        if not self.path.exists():
            return
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not self.module:
            self.ema.load_state_dict(state["ema"])
        self.step, self.spent_s = state["step"], state["spent_s"]
        logger.info("%s: resumed at step %d", self.name, self.step)

    def save(self) -> None:
        """Write a checkpoint, atomically."""
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not self.module else {},
            "step": self.step,
            "spent_s": self.spent_s,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    @torch.no_grad()
    def _update_ema(self) -> None:
        if self.ema is self.module:
            return
        decay = min(self.schedule.ema_decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.ema.parameters(), self.module.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def _advance(self, compute_loss: Callable[[int], torch.Tensor]) -> torch.Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr_at(self.step)
        loss = compute_loss(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.schedule.clip)
        self.optimizer.step()
        self.step += 1
        self._update_ema()
        return loss.detach()

    def run(self, compute_loss: Callable[[int], torch.Tensor], *, log_every: int = 50) -> torch.nn.Module:
        """Train from the newest checkpoint to the last step; return the module to ship (EMA where there is one)."""
        self.resume()
        started = saved = time.monotonic()
        already_s, losses = self.spent_s, []
        while self.step < self.schedule.steps:
            losses.append(self._advance(compute_loss))
            now = time.monotonic()
            self.spent_s = already_s + now - started
            if self.step % log_every == 0:
                mean = torch.stack(losses).mean().item()
                logger.info("%s step %d loss %.4f  %.0f s", self.name, self.step, mean, self.spent_s)
                losses.clear()
            if now - saved > _CHECKPOINT_EVERY_S or self.step == self.schedule.steps:
                self.save()
                saved = now
        device = next(self.module.parameters()).device
        record(self.work, self.name, steps=self.step, seconds=round(self.spent_s, 1), hardware=hardware(device))
        return self.ema
