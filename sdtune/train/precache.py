"""Filling the caches of a run ahead of it, so that the run itself encodes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sdtune.data.caches.tensor_store import cache_folder
from sdtune.data.tables.lazy import LazySequence
from sdtune.errors import StoppedError
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.caches import RunCaches, Wanted
from sdtune.train.inputs.source import wanted_entries
from sdtune.train.machine.advice import encoding_hint
from sdtune.train.machine.device import set_up_torch
from sdtune.train.machine.environment import using_threads
from sdtune.train.machine.memory import keep_freed_memory, memory_told
from sdtune.train.machine.ranks import joined_ranks
from sdtune.train.machine.signals import StopRequest
from sdtune.train.run import run_folder
from sdtune.train.space import cached_bytes
from sdtune.train.watching.previews import preview_requests

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.config.compose import Loaded
    from sdtune.plugins import Registry
    from sdtune.train.launch import Screen
    from sdtune.train.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheState:
    """One cache of a run.

    Attributes:
        folder: Where it lies; None: it is not kept on disk.
        why_not: Why it is not; empty when it is.
        wanted: Entries that the run asks for.
        missing: Those that were not there, by all processes.
        missing_bytes: About what they take.
    """

    folder: Path | None
    why_not: str = ""
    wanted: int = 0
    missing: int = 0
    missing_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What the caches of a run held before they were filled.

    Attributes:
        latents: The cache of latents.
        text: The cache of text.
        to_draw: Regularization images that the run will draw first; they are cached by the run.
    """

    latents: CacheState
    text: CacheState
    to_draw: int


def fill_ahead(loaded: Loaded, registry: Registry, screen: Screen, *, is_dry: bool) -> CacheReport | None:
    """Fill the caches on disk that a run would use; of several processes each encodes its share.

    Args:
        loaded: The options of the run.
        registry: Where methods and models are looked up.
        screen: What tells the user.
        is_dry: Look what is missing, and encode nothing.

    Returns:
        What there was before; None in processes that do not speak to the user.

    Raises:
        SdtuneError: As before the first step of a run; StoppedError after a signal, what was encoded is kept.
    """
    with joined_ranks() as ranks, StopRequest(is_patient=ranks.size > 1) as stop:

        def on_progress(what: str, done: int, count: int) -> None:
            if ranks.is_first:
                screen.caching(what, done, count)
            if stop.is_raised:
                raise StoppedError("stopped, what was encoded is kept", hint="the same command goes on")

        loaded = _on_disk(loaded)
        run = assemble(loaded, registry, run_folder(loaded.options), ranks)
        keep_freed_memory()
        set_up_torch(run.options.train, run.device)
        wanted = _wanted(run)
        with (
            using_threads(run.options.train.threads),
            memory_told(lambda: "while captions and images are encoded", lambda: encoding_hint(run)),
        ):
            caches = RunCaches(run, wanted)
            report = _report(run, wanted, caches)
            if not is_dry:
                caches.fill(on_progress)
        ranks.wait()
    return report if ranks.is_first else None


def _on_disk(loaded: Loaded) -> Loaded:
    """Let `auto` be the disk; the length of the run is of no matter."""
    options = loaded.options
    cache, train = options.data.cache, options.train
    asked = {"latents": cache.latents, "text": cache.text}
    update = {kind: "disk" if mode == "auto" else mode for kind, mode in asked.items()}
    data = options.data.model_copy(update={"cache": cache.model_copy(update=update)})
    if train.steps is None and train.epochs is None:
        train = train.model_copy(update={"epochs": 1})
    return replace(loaded, options=options.model_copy(update={"data": data, "train": train}))


def _wanted(run: Run) -> Wanted:
    """List what the run will ask for on disk, without images that are still to be drawn."""
    prompts = tuple(dict.fromkeys(text for request in preview_requests(run) for text in request.texts()))
    wanted, cache = wanted_entries(run, prompts), run.options.data.cache
    items = wanted.latents if cache.latents == "disk" else None
    if items is not None and run.missing:
        to_draw = {item.path for item in run.missing}
        there = [number for number, item in enumerate(items) if item.record.path not in to_draw]
        items = LazySequence(items.__getitem__, there)
    return Wanted(captions=wanted.captions if cache.text == "disk" else None, latents=items)


def _report(run: Run, wanted: Wanted, caches: RunCaches) -> CacheReport:
    options, need, gather = run.options.data.cache, cached_bytes(run), run.ranks.gather

    def state(kind: str, mode: str, count: int, missing: int) -> CacheState:
        if not count:
            why = f"data.cache.{kind} is {mode}" if mode != "disk" else "it changes while the run trains"
            return CacheState(folder=None, why_not=why)
        missing = sum(gather(missing))
        size = need[kind] * missing // count
        return CacheState(folder=cache_folder(options) / kind, wanted=count, missing=missing, missing_bytes=size)

    pictures = caches.latents.count(wanted.latents) if caches.latents and wanted.latents else 0
    return CacheReport(
        latents=state("latents", options.latents, pictures, len(caches.missing_latents)),
        text=state("text", options.text, len(wanted.captions or ()), len(caches.missing_texts)),
        to_draw=len(run.missing),
    )
