"""The plan: everything a user should know before the first step."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sdtune import __version__
from sdtune.config.rates import count_steps
from sdtune.data.captions.length import MOST_PIECES, PIECE, measure_captions
from sdtune.data.captions.tags import has_weights
from sdtune.data.captions.treating import example_captions
from sdtune.export.artifact import PICKLED_KINDS
from sdtune.train.planning.data_check import check_data
from sdtune.train.planning.objective_text import describe_objective, objective_notes
from sdtune.train.space import describe_saving
from sdtune.train.update.rates import group_rates
from sdtune.train.validation.choice import validation_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.data.check.diagnosis import Diagnosis
    from sdtune.data.tables.records import ImageTable
    from sdtune.data.types import Subset
    from sdtune.train.method import ParamGroup
    from sdtune.train.run import Run

_SOURCES = {
    "txt": ".txt files",
    "caption": ".caption files",
    "mixed": ".txt and .caption files",
    "json": "one JSON file",
    "filename": "file names",
    "folder": "folder names",
    "prompt": "the prompt alone",
}
_MOST_FOLDERS = 8
_SHOWN = 3  # findings of the data check
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGroup:
    """One line of the table of what is trained."""

    name: str
    part: str
    modules: int
    parameters: int
    lr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run before it starts; plain values, ready for JSON.

    Attributes:
        facts: Topic to text, in the order they are shown.
        trained: What is trained.
        notes: Things that may surprise, one line each.
        steps: Optimizer steps of the run.
        forecast: Memory, disk and time in numbers; None: not asked for.
        files: The files, and what each program will make of them; None: not asked for.
    """

    facts: dict[str, str]
    trained: tuple[TrainedGroup, ...]
    notes: tuple[str, ...]
    steps: int
    forecast: dict[str, Any] | None = None
    files: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give plain values."""
        return asdict(self)

    def render(self) -> str:
        """Give the plan as text."""
        width = max(len(topic) for topic in self.facts)
        lines = [f"{topic:<{width}}  {text}" for topic, text in self.facts.items()]
        return "\n".join([*lines, "", *self._table(), *(f"note: {note}" for note in self.notes)])

    def _table(self) -> list[str]:
        head = ("trained", "part", "layers", "parameters", "lr")
        rows = [(g.name, g.part, f"{g.modules}", f"{g.parameters:,}", g.lr) for g in self.trained]
        widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
        return [
            "  ".join(
                cell.ljust(width) if column < 2 else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in [head, *rows]
        ] + [""]


def make_plan(run: Run) -> Plan:
    """Describe a run that is assembled and not started."""
    trained = tuple(
        TrainedGroup(
            name=group.name,
            part=group.part,
            modules=group.modules,
            parameters=sum(parameter.numel() for parameter in group.params.values()),
            lr=_lr_text(group, run),
        )
        for group in run.groups
    )
    facts = {
        "run": f"{run.name}: {run.spec.name} ({run.spec.summary}), sdtune {__version__}",
        "model": _model_text(run),
        "objective": describe_objective(run.options, run.model),
        "images": _images_text(run),
        **_regularization_facts(run),
        **validation_facts(run),
        "captions": _captions_text(run),
        "buckets": ", ".join(f"{size} x {count}" for size, count in run.bucket_counts().items()),
        "steps": _steps_text(run),
        **_processes_facts(run),
        "optimizer": _optimizer_text(run),
        **((run.preflight and run.preflight.facts()) or _file_facts(run, sum(group.parameters for group in trained))),
        "checkpoints": describe_saving(run),
        "folder": str(run.folder.path),
        **(run.forecast.facts() if run.forecast else {}),
    }
    diagnosis = check_data(run) if run.options.log.check and run.ranks.is_first else None
    if diagnosis is not None:
        facts["data check"] = _check_text(diagnosis)
    surprises = (*run.model.notes(), *run.index.notes, *run.method.notes(), *objective_notes(run.options, run.model))
    return Plan(
        facts=facts,
        trained=trained,
        notes=(*run.fitted, *surprises, *run.frozen, *_notes(run), *(_worst(diagnosis) if diagnosis else ())),
        steps=run.timetable.steps,
        forecast=run.forecast.to_dict() if run.forecast else None,
        files=run.preflight.to_dict() if run.preflight else None,
    )


def _check_text(diagnosis: Diagnosis) -> str:
    survey = diagnosis.survey
    seen = f"{len(survey.images)} of {survey.images_in_all} images: " if survey.images_in_all else ""
    return f"{seen}{diagnosis.summary()}; `sdtune data check {shlex.quote(str(survey.root))}` tells more"


def _worst(diagnosis: Diagnosis) -> list[str]:
    """Tell the first findings that make a run worse."""
    found = [finding for finding in diagnosis.findings if finding.kind.severity != "note"]
    lines = [f"{finding.kind.name}: {finding.place}: {finding.message}; {finding.remedy}" for finding in found[:_SHOWN]]
    return [*lines, f"{len(found) - _SHOWN} more of such findings"] if len(found) > _SHOWN else lines


def _lr_text(group: ParamGroup, run: Run) -> str:
    found = group_rates(group, run.options.train, run.timetable.steps)
    pairs = zip(found.rates.values, found.rates.ends, strict=True)
    text = ", ".join(f"{rate:g}" if end == math.inf else f"{rate:g}:{end}" for rate, end in pairs)
    return f"{text}, to step {found.end}" if group.stop is not None and found.end < math.inf else text


def _model_text(run: Run) -> str:
    dtype = str(run.model.source.dtype).removeprefix("torch.")
    return f"{run.model.source.name} ({run.model.describe()}), frozen parts {dtype} on {run.device}"


def _images_text(run: Run) -> str:
    return _folders_text(run.index.instances)


def _folders_text(images: ImageTable) -> str:
    counts = images.subsets.counts()
    own_sizes = len({subset.options.resolution for subset in counts}) > 1
    parts = [f"{subset.name}: {count} x {_folder_text(subset, own_sizes)}" for subset, count in counts.items()]
    if len(parts) > _MOST_FOLDERS:
        parts[_MOST_FOLDERS - 1 :] = [f"and {len(parts) - _MOST_FOLDERS + 1} more folders"]
    return f"{len(images)} ({'; '.join(parts)})"


def _folder_text(subset: Subset, tells_resolution: bool) -> str:
    resolution = f" at {subset.options.resolution}" if tells_resolution else ""
    batches = f" in batches of {subset.batch_size}" if subset.batch_size else ""
    return f"{subset.repeats:g} repeats{resolution}{batches}"


def _regularization_facts(run: Run) -> dict[str, str]:
    images, options = run.index.regularization, run.options.regularization
    if not images:
        return {}
    visits = run.order.regularization_visits
    weight = f"{options.weight:g}" if options.weight_end is None else f"{options.weight:g} to {options.weight_end:g}"
    text = f"{_folders_text(images)}, {visits} visits an epoch in turn, weight {weight}"
    if run.missing:
        places = ", ".join(dict.fromkeys(str(item.path.parent) for item in run.missing))
        text += f"; {len(run.missing)} of them are drawn first, into {places}"
    return {"regularization": text}


def _captions_text(run: Run) -> str:
    instances = run.index.instances
    counts: Counter[str] = Counter()
    for subset, count in instances.subsets.counts().items():
        counts[subset.caption_source] += count
    sources = [f"{count} from {_SOURCES.get(source, source)}" for source, count in sorted(counts.items())]
    distinct = len({*example_captions(instances)})
    trigger = run.trigger()
    shared = f", all begin with '{trigger}'" if trigger else ""
    return f"{', '.join(sources)}; {distinct} different{shared}"


def _steps_text(run: Run) -> str:
    table, order = run.timetable, run.order
    sizes = " or ".join(map(str, order.batch_sizes))
    return (
        f"{order.counts.total()} visits in batches of {sizes} = {table.batches_per_epoch} batches an epoch, "
        f"{table.accumulation} a step = {table.steps_per_epoch} steps; {table.steps} steps = "
        f"{table.steps / table.steps_per_epoch:.3g} epochs"
    )


def _processes_facts(run: Run) -> dict[str, str]:
    count, sizes = run.ranks.size, run.order.batch_sizes
    if count == 1:
        return {}
    visits = sizes[0] * run.timetable.accumulation
    most = "up to " if len(sizes) > 1 else ""
    each = f"{visits // count} or {visits // count + 1}" if visits % count else f"{visits // count}"
    idle = f"; {count - visits} without work, try a larger train.batch_size" if visits < count else ""
    return {"processes": f"{count}, visits of a step: {most}{visits} in all, {most}{each} each{idle}"}


def _optimizer_text(run: Run) -> str:
    optimizer, schedule = run.options.train.optimizer, run.options.train.schedule
    args = ", ".join(f"{name} {value}" for name, value in {**optimizer.common, **optimizer.args}.items())
    warmup = count_steps(schedule.warmup, run.timetable.steps)
    rise = f" after {warmup} steps of warmup" if warmup else ""
    return f"{optimizer.name}{f' ({args})' if args else ''}, learning rate {schedule.name}{rise}"


def _file_facts(run: Run, parameters: int) -> dict[str, str]:
    if run.method.kind == "checkpoint":
        text = f"{run.folder.exports / run.name}.safetensors, the whole model in {run.options.save.dtype}"
    elif run.method.kind in PICKLED_KINDS:
        text = f"{run.folder.exports}/*.pt, about {parameters * 4 / 1024:.0f} KiB in fp32"
    else:
        size = parameters * _BYTES[run.options.save.dtype]
        text = f"{run.folder.exports / run.name}.safetensors, about {size / 2**20:.1f} MiB in {run.options.save.dtype}"
    return {"file": text}


def _notes(run: Run) -> list[str]:
    notes = list(run.preflight.notes()) if run.preflight else []
    if cut := _cut_captions_text(run):
        notes.append(cut)
    if not run.options.model.weighted_words and (text := next(filter(has_weights, _captions(run)), "")):
        notes.append(f"weights in captions are read as letters: set model.weighted_words=true; first: {text[:60]!r}")
    small = np.flatnonzero(run.placements.resized[:, 0] > run.index.images.sizes[:, 0]).tolist()
    if small:
        first = run.index.images.names[small[0]]
        notes.append(f"{len(small)} images are enlarged to their bucket, first: {first}")
    return notes


def _captions(run: Run) -> Iterator[str]:
    return example_captions(run.index.images)


def _cut_captions_text(run: Run) -> str:
    model, images = run.model, run.index.images
    found = measure_captions(zip(images.names, _captions(run), strict=True), model.count_tokens, model.count_cut)
    if not found.cut:
        return ""
    worst, chunks = found.cut[0], model.source.options.chunks
    more = min(max(math.ceil(worst.tokens / PIECE), chunks + 1), MOST_PIECES)
    remedy = f"; model.chunks={more} reads more" if more > chunks else ""
    return (
        f"{sum(own.images for own in found.cut)} of {found.captions} captions too long "
        f"for {PIECE * chunks} tokens, and cut; {worst}{remedy}"
    )
