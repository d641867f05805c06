"""Settings chosen so that a run fits into a given memory: what harms result and speed least comes first."""

from __future__ import annotations

import gc
import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sdtune.config.dump import DEFAULT
from sdtune.errors import ConfigError, OutOfMemoryError
from sdtune.files import parse_bytes
from sdtune.train.assembly.assembling import assemble
from sdtune.train.machine.memory import return_freed_memory
from sdtune.train.needs.forecast import make_forecast, size
from sdtune.train.planning.lookahead import look_ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sdtune.config.base import Options
    from sdtune.config.compose import Loaded
    from sdtune.config.schema import CoreOptions
    from sdtune.plugins import Registry
    from sdtune.train.machine.ranks import Ranks
    from sdtune.train.needs.forecast import Phase
    from sdtune.train.run import Run
    from sdtune.train.saving.folder import RunFolder

    Changes = Mapping[str, Any]

_RESERVE = 0.05  # of the limit: what no forecast sees
_SMALLER = (3 / 4, 1 / 2)  # resolutions that are tried when nothing else helps
_SIDE_PX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One change that saves memory.

    Attributes:
        price: What it costs, for the plan.
        changes: Gives dotted options and their new values; nothing where there is nothing to change.
        may_touch: Options that it changes though the user gave them, since what was meant by them stays.
    """

    price: str
    changes: Callable[[CoreOptions], Changes]
    may_touch: frozenset[str] = frozenset()


def parse_size(text: str) -> int:
    """Read `8GB`, `7.5 GB`, `8GiB` or `900MB` as bytes; GB are 10^9.

    Raises:
        ConfigError: It is none of them.
    """
    if found := parse_bytes(text):
        return found
    raise ConfigError(f"--fit {text!r} is no size", hint="write it like 8GB or 7.5GB")


def prepare(
    loaded: Loaded, registry: Registry, folder: RunFolder, ranks: Ranks, fit_bytes: int | None = None
) -> tuple[Loaded, Run]:
    """Assemble a run, with its forecast and what programs will make of its files; in limited memory one that fits.

    Returns:
        The options as they are now, and the run.

    Raises:
        ConfigError: Settings are to be chosen in several processes, which may not agree.
        OutOfMemoryError: Nothing that may be changed makes it fit.
        SdtuneError: As `assemble`.
    """
    if fit_bytes is not None and ranks.size > 1:
        raise ConfigError("--fit is for one process", hint="choose by `sdtune plan --fit SIZE`, then give the options")
    run = assemble(loaded, registry, folder, ranks)
    if fit_bytes is not None or loaded.options.log.forecast:
        run.forecast = make_forecast(run)
    if fit_bytes is not None:
        loaded, run = _Fitter(registry, folder, fit_bytes).fit(loaded, run)
    if ranks.is_first:
        run.preflight = look_ahead(run, registry)
    return loaded, run


class _Fitter:
    """Take change after change that lowers the peak, until it is low enough."""

    def __init__(self, registry: Registry, folder: RunFolder, limit: int) -> None:
        self._registry = registry
        self._folder = folder
        self._limit = limit
        self._origin = f"--fit {size(limit).replace(' ', '')}"

    def fit(self, loaded: Loaded, run: Run) -> tuple[Loaded, Run]:
        notes: list[str] = []
        best = _peak(run)
        while not self._fits(best):
            found = self._next(loaded, best)
            if found is None:
                raise self._too_large(loaded, best)
            loaded, run, note = found
            best = _peak(run)
            notes.append(note)
        run.fitted = tuple(notes)
        return loaded, run

    def _fits(self, peak: Phase) -> bool:
        return peak.total <= self._limit * (1 - _RESERVE)

    def _next(self, loaded: Loaded, best: Phase) -> tuple[Loaded, Run, str] | None:
        for rung in RUNGS:
            changes = rung.changes(loaded.options)
            given = {name for name in changes if loaded.origins.get(name, DEFAULT) not in (DEFAULT, self._origin)}
            if not changes or given - rung.may_touch:
                continue
            candidate = _changed(loaded, changes, self._origin)
            run = self._assemble(candidate)
            saved = best.total - _peak(run).total
            if saved > 0:
                listed = ", ".join(f"{name}={_text(value)}" for name, value in changes.items())
                return candidate, run, f"{self._origin}: {listed} saves {size(saved)}; {rung.price}"
        return None

    def _assemble(self, loaded: Loaded) -> Run:
        gc.collect()  # a run is full of reference cycles, and the one before is no longer needed
        return_freed_memory()
        run = assemble(loaded, self._registry, self._folder)
        run.forecast = make_forecast(run)
        return run

    def _too_large(self, loaded: Loaded, best: Phase) -> OutOfMemoryError:
        hint = "use a smaller data.resolution, a smaller model, or a method that trains less"
        for share in _SMALLER:
            width, height = (_rounded(side * share) for side in self._assemble(loaded).options.data.size_px)
            smaller = _changed(loaded, {"data.resolution": f"{width}x{height}"}, self._origin)
            if self._fits(peak := _peak(self._assemble(smaller))):
                hint = f"data.resolution={width}x{height} takes {size(peak.total)}"
                break
        return OutOfMemoryError(
            f"{self._origin}: the least that was found is {size(best.total)}, while {best.name}", hint=hint
        )


def _peak(run: Run) -> Phase:
    assert run.forecast is not None
    return run.forecast.peak


def _rounded(side: float) -> int:
    return max(_SIDE_PX, int(side) // _SIDE_PX * _SIDE_PX)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _changed(loaded: Loaded, changes: Changes, origin: str) -> Loaded:
    """Give options with other values, and where these come from."""
    options: Options = loaded.options
    for name, value in changes.items():
        options = put(options, name.split("."), value)
    origins = {**loaded.origins, **dict.fromkeys(changes, origin)}
    return replace(loaded, options=options, origins=origins)  # type: ignore[arg-type]  # of the class it was


def put(options: Options, path: list[str], value: object) -> Options:
    """Give options with another value at a place inside."""
    name, *rest = path
    return options.model_copy(update={name: put(dict(options)[name], rest, value) if rest else value})


def _cache_text(options: CoreOptions) -> Changes:
    return {"data.cache.text": "disk"} if options.data.cache.text != "disk" else {}


def _cache_latents(options: CoreOptions) -> Changes:
    return {"data.cache.latents": "disk"} if options.data.cache.latents != "disk" else {}


def _encode_singly(options: CoreOptions) -> Changes:
    return {"data.cache.vae_batch_size": 1} if options.data.cache.vae_batch_size > 1 else {}


def _leave_certificate(options: CoreOptions) -> Changes:
    return {"output.certify": False} if options.output.certify else {}


def _checkpoint(options: CoreOptions) -> Changes:
    return {"train.gradient_checkpointing": True} if not options.train.gradient_checkpointing else {}


def _halve_batch(options: CoreOptions) -> Changes:
    """Split the batch by its smallest divisor, so that a step has as many images as before; not of several sizes."""
    batch, train = options.train.batch_size, options.train
    divisor = next((number for number in range(2, math.isqrt(batch) + 1) if batch % number == 0), batch)
    if batch == 1 or any(subset.batch_size for subset in options.data.subsets):
        return {}
    return {
        "train.batch_size": batch // divisor,
        "train.gradient_accumulation": train.gradient_accumulation * divisor,
    }


def _lower_precision(options: CoreOptions) -> Changes:
    return {"train.precision": "bf16"} if options.train.precision in ("auto", "fp32") else {}


def _shrink_optimizer(options: CoreOptions) -> Changes:
    name = options.train.optimizer.name
    has_package = find_spec("bitsandbytes") is not None
    return {"train.optimizer.name": "adamw8bit"} if name == "adamw" and has_package else {}


RUNGS = (
    Rung(price="captions are read from disk", changes=_cache_text),
    Rung(price="latents are read from disk", changes=_cache_latents),
    Rung(price="images are encoded one by one", changes=_encode_singly),
    Rung(price="read the files back later with `sdtune verify`", changes=_leave_certificate),
    Rung(price="the same result, about a third slower", changes=_checkpoint),
    Rung(
        price="as many images a step as before",
        changes=_halve_batch,
        may_touch=frozenset({"train.batch_size"}),
    ),
    Rung(price="frozen parts are computed with fewer digits", changes=_lower_precision),
    Rung(price="the optimizer's state has 8 bits, and the result differs a little", changes=_shrink_optimizer),
)
