"""Room on the disk: what a run will write, and whether there is so much, before the first step."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from sdtune.data.tensor_store import cache_folder
from sdtune.errors import PlatformError
from sdtune.export.artifact import PICKLED_KINDS
from sdtune.files import free_bytes, show_bytes
from sdtune.models.tensors import read_header
from sdtune.train.checkpoint import list_checkpoints
from sdtune.train.method import ParamGroup
from sdtune.train.optimizers import build_optimizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from sdtune.train.run import Run

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_EIGHT_BIT_FROM = 4096  # numbers in a parameter; smaller ones have states of 32 bits in 8-bit optimizers too
_TEXT_BYTES = 77 * 2048 * 4  # hidden states of 75 tokens, SDXL's; other families have fewer


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskNeed:
    """What a run writes, in bytes; rounded up where it is not known before.

    Attributes:
        checkpoint: One checkpoint.
        checkpoints: All that lie there at once: those that are kept, and one more while it is written.
        exports: Finished files, of epochs too.
        latents: Cache of latents; 0 when it is in memory.
        texts: Cache of text; 0 when it is in memory.
    """

    checkpoint: int
    checkpoints: int
    exports: int
    latents: int
    texts: int

    @property
    def caches(self) -> int:
        """What goes into the cache folder."""
        return self.latents + self.texts


def disk_need(run: Run) -> DiskNeed:
    """Compute what a run writes into an empty folder and an empty cache; nothing is read or written but headers."""
    sizes = [parameter.numel() for parameter in run.parameters().values()]
    numbers = sum(sizes)
    has_average = run.options.train.ema.decay is not None
    checkpoint = numbers * 4 * (2 if has_average else 1) + _optimizer_bytes(run, sizes)
    return DiskNeed(
        checkpoint=checkpoint,
        checkpoints=checkpoint * min(run.options.save.keep + 1, run.timetable.steps),
        exports=_file_bytes(run, numbers) * _count_files(run),
        latents=_latent_bytes(run) if run.options.data.cache.latents == "disk" else 0,
        texts=_text_bytes(run) if run.options.data.cache.text == "disk" and not run.trains_text else 0,
    )


def describe_saving(run: Run) -> str:
    """Tell how often the run is saved, and what a crash costs."""
    save, size = run.options.save, show_bytes(disk_need(run).checkpoint)
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
        "files": need.exports - _written(run.folder.exports.glob("*")),
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


def _optimizer_bytes(run: Run, sizes: Sequence[int]) -> int:
    small, large = _optimizer_share(run, side=32), _optimizer_share(run, side=128)
    return math.ceil(sum(size * 4 * (small if size < _EIGHT_BIT_FROM else large) for size in sizes))


def _optimizer_share(run: Run, *, side: int) -> float:
    """Measure the optimizer's state on a square parameter: bytes for each byte of it."""
    trial = nn.Parameter(torch.ones(side, side, device=run.device))
    group = ParamGroup(name="trial", part="unet", params={"trial": trial}, lr=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = build_optimizer([group], run.options.train)
        trial.grad = torch.full_like(trial, 1e-3)
        optimizer.step()
    states = (value for value in optimizer.state[trial].values() if isinstance(value, torch.Tensor))
    return sum(state.nbytes for state in states) / trial.nbytes


def _file_bytes(run: Run, numbers: int) -> int:
    if run.method.kind == "checkpoint":
        return _base_numbers(run.model.source.path) * _BYTES[run.options.save.dtype]
    return numbers * (4 if run.method.kind in PICKLED_KINDS else _BYTES[run.options.save.dtype])


def _count_files(run: Run) -> int:
    every = run.options.save.every_epochs
    of_epochs = (run.timetable.epochs - 1) // every if every else 0
    average = run.options.train.ema
    return (of_epochs + 1) * (2 if average.decay is not None and average.export == "both" else 1)


def _base_numbers(path: Path) -> int:
    """Count the numbers in a base model's files; 0 where they are not safetensors."""
    files = path.rglob("*.safetensors") if path.is_dir() else [path] if path.suffix == ".safetensors" else []
    return sum(math.prod(shape) for file in files for shape in read_header(file).shapes.values())


def _latent_bytes(run: Run) -> int:
    """Count mean and std, float32, of each picture the VAE sees."""
    numbers = run.model.latent_channels / run.model.latent_factor**2
    pixels = sum(place.bucket.width * place.bucket.height for place in run.placements)
    return math.ceil(pixels * (2 if run.options.data.flip else 1) * numbers) * 2 * 4


def _text_bytes(run: Run) -> int:
    captions = {image.caption for image in run.index.images} | set(run.options.preview.prompts)
    return len(captions) * run.model.source.options.chunks * _TEXT_BYTES
