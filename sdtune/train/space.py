"""Room on the disk: what a run will write, and whether there is so much, before the first step."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sdtune.data.caches.tensor_store import cache_folder
from sdtune.errors import PlatformError
from sdtune.export.artifact import PICKLED_KINDS
from sdtune.files import free_bytes, show_bytes
from sdtune.models.tensors import read_header
from sdtune.train.saving.checkpoint import list_checkpoints
from sdtune.train.update.optimizer_state import state_bytes
from sdtune.train.watching.previews import preview_requests

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sdtune.train.run import Run

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_TEXT_BYTES = 77 * 2048 * 4  # hidden states of 75 tokens, SDXL's; other families have fewer
_NAME_BYTES = 160  # a tensor's entry in a file's header: its name, shape and place
_STATE_NAME_BYTES = 900  # of each parameter, in a checkpoint's record and before the optimizer's tensors
_METADATA_BYTES = 8_000  # of an exported file, and a checkpoint's record
_PIXEL_BYTES = 2  # of a PNG with much detail
_LOG_BYTES = 1_000  # a step in metrics.jsonl and TensorBoard together


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """What a run writes, in bytes; rounded up where it is not known before.

    Attributes:
        checkpoint: One checkpoint.
        checkpoints: All that lie there at once: those that are kept, and one more while it is written.
        exports: Finished files, of epochs too.
        copies: Finished files once more, in other programs' folders.
        latents: Cache of latents; 0 when it is in memory.
        texts: Cache of text; 0 when it is in memory.
        previews: Pictures.
        logs: Numbers of each step.
    """

    checkpoint: int
    checkpoints: int
    exports: int
    copies: int
    latents: int
    texts: int
    previews: int
    logs: int

    @property
    def caches(self) -> int:
        """What goes into the cache folder."""
        return self.latents + self.texts

    def kinds(self) -> dict[str, int]:
        """Give kind to bytes, without what the run does not write."""
        found = {
            "checkpoints": self.checkpoints,
            "exports": self.exports,
            "copies": self.copies,
            "caches": self.caches,
            "previews": self.previews,
            "logs": self.logs,
        }
        return {kind: count for kind, count in found.items() if count}


def disk_need(run: Run, caption_bytes: int | None = None) -> DiskNeed:
    """Compute what a run writes into an empty folder and an empty cache; nothing is read or written but headers.

    Args:
        run: The run.
        caption_bytes: One cached caption; None: as many as the largest family has.
    """
    options, file = run.options, _file_bytes(run)
    checkpoint, cached, modes = checkpoint_bytes(run), cached_bytes(run, caption_bytes), cache_modes(run)
    targets = [folder for folder in (options.output.webui_dir, options.output.comfyui_dir) if folder is not None]
    return DiskNeed(
        checkpoint=checkpoint,
        checkpoints=checkpoint * min(options.save.keep + 1, run.timetable.steps),
        exports=file * _count_files(run),
        copies=file * len(targets),
        latents=cached["latents"] if modes["latents"] == "disk" else 0,
        texts=cached["text"] if modes["text"] == "disk" and not run.trains_text else 0,
        previews=_preview_bytes(run),
        logs=run.timetable.steps // options.log.every_steps * _LOG_BYTES,
    )


def checkpoint_bytes(run: Run) -> int:
    """Compute the size of one checkpoint: weights, their average, the optimizer's state."""
    parameters = run.parameters()
    weights = sum(parameter.nbytes for parameter in parameters.values())
    has_average = run.options.train.ema.decay is not None
    average = sum(parameter.numel() * 4 for parameter in parameters.values()) if has_average else 0
    names = _names_bytes(run) + len(parameters) * _STATE_NAME_BYTES
    return weights + average + state_bytes(run.groups, run.options.train) + _METADATA_BYTES + names


def cached_bytes(run: Run, caption_bytes: int | None = None) -> dict[str, int]:
    """Compute what full caches of `latents` and of `text` hold: in float32, mean and std of each picture."""
    numbers = run.model.latent_channels / run.model.latent_factor**2
    pixels = sum(bucket.width * bucket.height * count for bucket, count in run.placements.buckets.counts().items())
    captions = {*run.index.images.captions, *run.options.preview.prompts}
    each = caption_bytes or run.model.source.options.chunks * _TEXT_BYTES
    latents = math.ceil(pixels * (2 if run.options.data.flip else 1) * numbers) * 2 * 4
    return {"latents": latents, "text": len(captions) * each}


def cache_modes(run: Run) -> dict[str, Literal["disk", "ram", "off"]]:
    """Tell where the caches of `latents` and of `text` are filled; `auto` is memory where all of it fits.

    Whether text can be cached at all is not asked.
    """
    options, need = run.options.data.cache, cached_bytes(run)
    asked = {"latents": options.latents, "text": options.text}
    fitting: dict[str, Literal["disk", "ram"]] = {
        kind: "ram" if need[kind] <= options.ram_gib * 2**30 else "disk" for kind in asked
    }
    return {kind: fitting[kind] if mode == "auto" else mode for kind, mode in asked.items()}


def describe_saving(run: Run) -> str:
    """Tell how often the run is saved, and what a crash costs."""
    save, size = run.options.save, show_bytes(checkpoint_bytes(run))
    every = [f"every {save.every_steps} steps"] if save.every_steps else []
    every += [f"every {save.every_minutes:g} minutes"] if save.every_minutes else []
    kept = f"{size} each, {save.keep} kept"
    if not every:
        return f"after the last step alone, {size}: a crash costs the whole run"
    cost = every[-1].removeprefix("every ")
    return f"{' and '.join(every)}, {kept}: a crash costs {cost} at most"


def check_space(run: Run) -> None:
    """Compare what a run will write with what is free; what it has written before is taken into account.

    Raises:
        PlatformError: Too little is free.
    """
    need, cache = disk_need(run), cache_folder(run.options.data.cache)
    here = {
        "checkpoints": need.checkpoints - _written(list_checkpoints(run.folder.checkpoints)),
        "exports": need.exports - _written(run.folder.exports.glob("*")),
    }
    wanted = {run.folder.path: here, cache: {"caches": _caches_to_come(need.caches, cache)}}
    for path, kinds in _by_disk(wanted).items():
        with suppress(OSError):  # a file system that does not tell
            _check(path, {kind: size for kind, size in kinds.items() if size > 0})


def _caches_to_come(need: int, cache: Path) -> int:
    """Take off what lies in the cache, whoever put it there; counted only where room is short."""
    with suppress(OSError):
        if 2 * need < free_bytes(cache):
            return need
    return need - _written(cache / kind for kind in ("latents", "text"))


def _check(path: Path, kinds: Mapping[str, int]) -> None:
    total, free = sum(kinds.values()), free_bytes(path)
    if total > free:
        parts = ", ".join(f"{kind} {show_bytes(size)}" for kind, size in kinds.items())
        raise PlatformError(
            f"the run needs about {show_bytes(total)} ({parts}), and {show_bytes(free)} are free",
            where=str(path),
            hint="make room, choose another --output or data.cache.dir, or a smaller save.keep",
        )


def _by_disk(wanted: Mapping[Path, Mapping[str, int]]) -> dict[Path, dict[str, int]]:
    """Join the needs of folders on one file system, under the first of them."""
    first: dict[int, Path] = {}
    joined: dict[Path, dict[str, int]] = defaultdict(dict)
    for path, kinds in wanted.items():
        with suppress(OSError):
            joined[first.setdefault(_device(path), path)] |= kinds
    return joined


def _device(path: Path) -> int:
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return place.stat().st_dev


def _written(paths: Iterable[Path]) -> int:
    """Count the bytes of files, and of all in folders."""
    files = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    return sum(file.stat().st_size for file in files if file.is_file())


def _names_bytes(run: Run) -> int:
    return len(run.parameters()) * _NAME_BYTES


def _file_bytes(run: Run) -> int:
    kind, dtype = run.method.kind, _BYTES[run.options.save.dtype]
    if kind == "checkpoint":
        return _base_numbers(run.model.source.path) * dtype
    numbers = sum(parameter.numel() for parameter in run.parameters().values())
    return numbers * (4 if kind in PICKLED_KINDS else dtype) + _METADATA_BYTES + _names_bytes(run)


def _preview_bytes(run: Run) -> int:
    options, table = run.options.preview, run.timetable
    times = 2 + (table.steps // options.every_steps if options.every_steps else 0)
    times += table.epochs // options.every_epochs if options.every_epochs else 0
    pixels = sum(request.size.width * request.size.height for request in preview_requests(run))
    return 2 * times * pixels * _PIXEL_BYTES  # each alone and in the grid


def _count_files(run: Run) -> int:
    every = run.options.save.every_epochs
    of_epochs = (run.timetable.epochs - 1) // every if every else 0
    average = run.options.train.ema
    return (of_epochs + 1) * (2 if average.decay is not None and average.export == "both" else 1)


def _base_numbers(path: Path) -> int:
    """Count the numbers in a base model's files; of pickled ones, as many as 16 bits each would be."""
    if path.is_file() and path.suffix != ".safetensors":
        return path.stat().st_size // 2
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    return sum(math.prod(shape) for file in files for shape in read_header(file).shapes.values())
