"""How much memory, disk and time a run will take, told before it starts."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sdtune.config.optimizers import find_entry
from sdtune.train.inputs.source import make_builder
from sdtune.train.machine.memory import CONTEXT_BYTES, peak_memory_bytes, resident_bytes
from sdtune.train.needs.footprint import Footprint, measure
from sdtune.train.space import cache_modes, cached_bytes, disk_need
from sdtune.train.update.optimizer_state import state_bytes
from sdtune.train.watching.previews import preview_requests
from sdtune.train.watching.step_times import StepTime, step_key, step_time

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from sdtune.train.run import Run

logger = logging.getLogger(__name__)
# Of a CPU's resident size, beyond live tensors; measured, see benchmarks/README.md. glibc keeps freed blocks for the
# next step, and where tensors of many sizes come and go they leave gaps: shares of what a step needs at most.
_LATER_BYTES = 45_000_000  # libraries and kernels that are loaded after the plan
_GAPS, _GAPS_CHECKPOINTED = 0.25, 1.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What is in memory at one time of a run.

    Attributes:
        name: As it stands after `while`.
        parts: What it is, to bytes.
    """

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a run will take.

    Attributes:
        device: `cpu` or `cuda`: whose memory it is.
        phases: The memory of each phase, in bytes.
        disk: Kind of file to bytes, at most.
        flops: Floating-point operations of a step.
        step_seconds: A step's time; None: not known on this machine.
        time_source: How that is known.
        steps: Steps of the run.
    """

    device: str
    phases: tuple[Phase, ...]
    disk: Mapping[str, int]
    flops: int
    step_seconds: float | None
    time_source: str
    steps: int

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    def facts(self) -> dict[str, str]:
        """Give what the plan says."""
        return {"memory": self._memory(), "disk": self._disk(), "time": self._time()}

    def to_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self) | {
            "memory": {phase.name: phase.total for phase in self.phases},
            "memory_bytes": self.peak.total,
            "disk_bytes": sum(self.disk.values()),
        }

    def _memory(self) -> str:
        where = "of the GPU" if self.device == "cuda" else "in all"
        return f"{size(self.peak.total)} {where}, while {self.peak.name}: {_listed(self.peak.parts)}"

    def _disk(self) -> str:
        return f"up to {size(sum(self.disk.values()))}: {_listed(self.disk)}"

    def _time(self) -> str:
        if self.step_seconds is None:
            return "not known yet on this machine; told after the first steps"
        total = self.steps * self.step_seconds
        return f"about {duration(total)}, {self.step_seconds:.2g} s a step ({self.time_source})"


def make_forecast(run: Run) -> Forecast:
    """Tell what an assembled run will take; one to three seconds of work, and no GPU is needed."""
    has_text_cache = uses_text_cache(run)
    footprint = measure(run, uses_text_cache=has_text_cache)
    flops = footprint.flops * run.options.train.gradient_accumulation
    found = step_time(step_key(run), flops)
    return Forecast(
        device=run.device.type,
        phases=tuple(_phases(run, footprint, has_text_cache=has_text_cache)),
        disk=disk_need(run, footprint.conditioning).kinds(),
        flops=flops,
        step_seconds=found.seconds if isinstance(found, StepTime) else None,
        time_source=found.source if isinstance(found, StepTime) else "",
        steps=run.timetable.steps,
    )


def report_memory(run: Run) -> None:
    """Put the real peak of memory so far beside the forecast, into the log and `run.json`."""
    peak = peak_memory_bytes(run.device.type)
    run.folder.write_facts({"peak_memory_bytes": peak})
    forecast = f"forecast {size(run.forecast.peak.total)}, " if run.forecast else ""
    logger.info("memory: %sreal %s", forecast, size(peak))


def uses_text_cache(run: Run) -> bool:
    """Tell whether captions are encoded before training, and the text encoder is not needed then."""
    is_on = run.options.data.cache.text != "off" and not run.trains_text
    return is_on and make_builder(run, None).fixed_captions() is not None


def _phases(run: Run, footprint: Footprint, *, has_text_cache: bool) -> list[Phase]:
    options, weights = run.options, footprint.weights
    trained = {"trained": _sum(run.parameters().values())}
    base = {"program": _overhead(run), "unet": weights["unet"]} | trained
    text, own_vae = {"text encoder": weights["text_encoder"]}, {"vae": weights["vae"]}
    has_latents, requests = options.data.cache.latents != "off", preview_requests(run)
    resident = base | ({} if has_text_cache else text) | (own_vae if requests or not has_latents else {})
    resident |= _kept(run, footprint)
    gradients = 0 if options.train.fused_backward else trained["trained"]
    encode = 0 if has_latents else footprint.encode
    accumulated = gradients if options.train.gradient_accumulation > 1 else 0
    work = max(footprint.step + accumulated, gradients + _widened(run), encode)
    training = {"activations and gradients": work} | _heap(run, footprint)
    phases = [Phase(name="training", parts=resident | training)]
    if has_text_cache:
        phases.append(Phase(name="encoding captions", parts=base | text | {"activations": footprint.text}))
    if has_latents:
        phases.append(Phase(name="encoding images", parts=base | text | own_vae | {"activations": footprint.encode}))
    if requests:
        phases.append(Phase(name="drawing previews", parts=resident | {"activations": footprint.preview}))
    if run.device.type == "cpu":
        copied = max(state_bytes(run.groups, options.train), trained["trained"])
        phases.append(Phase(name="saving", parts=resident | {"libraries": _LATER_BYTES, "a copy for the file": copied}))
    if options.output.certify and (opened := _opened(run, footprint, kept={"unet", *resident})):
        phases.append(Phase(name="reading the files back", parts=resident | {"parts of the base model": opened}))
    return phases


def _heap(run: Run, footprint: Footprint) -> dict[str, int]:
    """Give what a CPU's resident size has beyond live tensors."""
    if run.device.type != "cpu":
        return {}
    train = run.options.train
    keeps = train.gradient_accumulation == 1 and not train.fused_backward
    gradients = _sum(run.parameters().values()) if keeps else 0
    share = _GAPS_CHECKPOINTED if train.gradient_checkpointing else _GAPS
    return {"libraries": _LATER_BYTES, "gaps in the heap": int(share * max(0, footprint.step - gradients))}


def _widened(run: Run) -> int:
    """Give what an update of weights in bfloat16 needs: weight, gradient and state in float32, one by one if it may."""
    train, entry = run.options.train, find_entry(run.options.train.optimizer.name)
    if train.weights == "fp32":
        return 0
    counts = [parameter.numel() for parameter in run.parameters().values()]
    state = 0 if entry.has_own_state else 2 * state_bytes(run.groups, train) // sum(counts)
    return (sum(counts) if entry.is_joint else max(counts)) * (4 + 4 + state)


def _opened(run: Run, footprint: Footprint, kept: Collection[str]) -> int:
    """Give the weights that the certificate opens: of parts that are not in memory as they are stored."""
    is_packed, opened = run.model.source.options.quantize is not None, 0
    for part, frozen in footprint.weights.items():
        trained = [p for group in run.groups if group.part == part for p in group.params.values()]
        is_whole = frozen < _sum(trained)
        if part == "vae" and not _exports_whole(run):
            continue
        if is_whole or part.replace("_", " ") not in kept or (is_packed and part != "vae"):
            numbers = sum(parameter.numel() for parameter in trained) if is_whole else 0
            opened += frozen + numbers * run.model.source.dtype.itemsize
    return opened + (footprint.packed if opened else 0)


def _kept(run: Run, footprint: Footprint) -> dict[str, int]:
    """Give what a run keeps beside weights: the optimizer's state, the average, caches in memory."""
    options, kept = run.options, {"optimizer": state_bytes(run.groups, run.options.train)}
    if options.train.ema.decay is not None:
        kept["average"] = sum(parameter.numel() * 4 for parameter in run.parameters().values())
    if run.device.type == "cpu":
        cached = cached_bytes(run, footprint.conditioning)
        kept["caches"] = sum(cached[kind] for kind, mode in _modes(run).items() if mode == "ram")
    return {name: count for name, count in kept.items() if count}


def _modes(run: Run) -> Mapping[str, str]:
    return cache_modes(run) | ({} if uses_text_cache(run) else {"text": "off"})


def _exports_whole(run: Run) -> bool:
    return run.method.kind == "checkpoint"


def _overhead(run: Run) -> int:
    """Give what Python, its libraries and on a GPU the context take without the run's own tensors."""
    if run.device.type != "cpu":
        return CONTEXT_BYTES
    tensors = {id(tensor): tensor for tensor in (*run.model.parameters(), *run.model.buffers())}
    tensors |= {id(parameter): parameter for parameter in run.parameters().values()}
    return max(0, resident_bytes() - _sum(tensors.values()))


def _sum(tensors: Any) -> int:
    return sum(_bytes(tensor) for tensor in tensors)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def size(count: int) -> str:
    """Spell bytes: `1.23 GB` (10^9), `45 MB`, `6 kB`."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.{2 if name == 'GB' else 0}f} {name}"
    return f"{max(count, 0) / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Spell a duration roughly: `45 s`, `3 min`, `2 h 5 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size(count)}" for name, count in sorted(parts.items(), key=lambda item: -item[1]))
