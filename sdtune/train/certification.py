"""Whenever files are written: prove that they do elsewhere what was trained, and remember what was found."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any

import torch

from sdtune.data.captions.treating import example_captions
from sdtune.errors import SdtuneError, is_out_of_memory
from sdtune.export.faults import describe_faults, raise_if_faulty
from sdtune.formats.consumers.table import AS_MEANT
from sdtune.models.modes import evaluating
from sdtune.train.assembly.assembling import open_base, unpacked
from sdtune.train.watching.observers import Observer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sdtune.config.schema import OutputOptions
    from sdtune.export.certificate import Certificate
    from sdtune.models.base import DiffusionModel, Part
    from sdtune.plugins import Registry
    from sdtune.train.run import ExportedFile, Run

logger = logging.getLogger(__name__)


class Certifier(Observer):
    """Reads each exported file back as other programs do, and writes what is found into it and into `run.json`.

    What is wrong is told at once, and the run goes on; at its end `raise_if_faulty` tells all of it.

    Args:
        registry: Opens the base model.
        say: Shows a line on the screen.

    Attributes:
        final: What was found of files of the last step.
    """

    def __init__(self, registry: Registry, say: Callable[[str], None]) -> None:
        self._registry = registry
        self._say = say
        self.final: list[Certificate] = []

    def on_export(self, run: Run, step: int, files: Sequence[ExportedFile]) -> None:
        """Read files back that were just written."""
        from sdtune.export.certificate import write_certificate

        if not (rounds := _rounds(run, files)):
            return
        with _told(files):
            started = time.perf_counter()
            certificate = None
            try:
                certificate = _certify(run, rounds, self._registry)
                for file in dict.fromkeys(chain.from_iterable(rounds)):
                    if file.path.suffix == ".safetensors":
                        write_certificate(file.path, certificate.facts(file.path.name))
            finally:
                _remember(run, files, certificate)
            logger.info("%s\nin %.1f s", certificate.render(), time.perf_counter() - started)
            if step == run.timetable.steps:
                self.final.append(certificate)
            else:
                self._tell(certificate)

    def _tell(self, certificate: Certificate) -> None:
        for text in summarize(certificate):
            self._say(text)
        for problem in describe_faults(_facts(certificate)):
            logger.warning("%s; the run goes on", problem)

    def raise_if_faulty(self, run: Run) -> None:
        """Refuse files of the run, those of earlier starts too, that a program would read otherwise than trained.

        Raises:
            ModelError: Names program, key and reason, for each.
        """
        if run.options.output.certify:
            raise_if_faulty(run.folder.read_facts().get("certificate", {}))


def summarize(certificate: Certificate) -> Iterator[str]:
    """Say of each file in one line in how many programs, of those that can load it, it is good."""
    for file, rows in groupby(certificate.rows, lambda row: row.file):
        asked = [row for row in rows if row.consumer != AS_MEANT]
        able = [row for row in asked if not row.unsupported or row.consumer in certificate.chosen]
        good = sum(row.verdict.startswith("good") for row in able)
        yield f"read back: {good} of {len(able)} programs good, {file}"


def _rounds(run: Run, files: Sequence[ExportedFile]) -> list[list[ExportedFile]]:
    """List the files that are read together: in the first round those that are delivered, then their other forms.

    An adapter stands after the checkpoint it acts on.
    """
    from sdtune.export.certificate import FAMILIES, READABLE

    if not run.options.output.certify or run.model.family not in FAMILIES:
        return []
    readable = [file for file in files if file.path.suffix in READABLE]
    forms = {(file.kind, file.path.stem): [file] for file in readable if file.is_delivered}
    for file in readable:
        if not file.is_delivered:
            forms.get((file.kind, file.path.stem), []).append(file)
    ordered = sorted(forms.values(), key=lambda own: own[0].kind != "checkpoint")
    count = max(map(len, ordered), default=0)
    return [[own[number] if number < len(own) else own[0] for own in ordered] for number in range(count)]


@contextmanager
def _told(files: Sequence[ExportedFile]) -> Iterator[None]:
    """Tell why files could not be read back, instead of ending the run, whose state is worth more."""
    names = ", ".join(file.path.name for file in files)
    try:
        yield
    except (SdtuneError, MemoryError, RuntimeError) as error:
        if not (isinstance(error, SdtuneError) or is_out_of_memory(error)):
            raise
        reason = error if isinstance(error, SdtuneError) else "memory does not suffice"
        logger.warning("%s: not read back as other programs do: %s; try sdtune verify", names, reason)


def _certify(run: Run, rounds: Sequence[Sequence[ExportedFile]], registry: Registry) -> Certificate:
    """Ask the trained model, then what the programs make of the files and the base model; the run stays as it was."""
    from sdtune.export.certificate import certify
    from sdtune.export.probe import Probe, ask_loaded
    from sdtune.export.weights import trained_layers
    from sdtune.formats.consumers.reading import open_file

    files, model = rounds[0], run.model
    has_vae = any(file.kind == "checkpoint" for file in files)
    stems = {file.path.stem: file.suffix for file in files if file.kind == "embedding"}
    words = {stem: stem.removesuffix(suffix) for stem, suffix in stems.items()}  # as files are called, and as trained
    probe = Probe(captions=_captions(run, tuple(words)), has_vae=has_vae)
    own_captions = _captions(run, tuple(words.values()))
    chosen, asked = programs(run.options.output)
    trained = weights = None
    # as in the programs that will use the files; libraries draw numbers where they build layers
    with model.stored_weights(), evaluating(model), _generators_kept(run.device):
        if run.method.is_whole_in_files():
            trained = ask_loaded(model, replace(probe, captions=own_captions))
            weights = trained_layers(model, is_whole=has_vae, words=words)
        with _base(run, registry, probe.parts) as base:
            found = []
            for own in rounds:
                opened = [open_file(file.path, file.kind) for file in own]
                found.append(certify(opened, base, probe, trained=trained, weights=weights, chosen=chosen, asked=asked))
    return _joined(found)


def _joined(found: Sequence[Certificate]) -> Certificate:
    """Join what was found in several rounds; of a file that is in several, the first counts.

    That a program never loads another form of a file is no news: it gets the first.
    """
    others = [row for certificate in reversed(found[1:]) for row in certificate.rows if not row.unsupported]
    rows = {(row.file, row.consumer): row for row in (*others, *found[0].rows)}
    files = dict.fromkeys(row.file for certificate in found for row in certificate.rows)
    return replace(found[0], rows=tuple(row for file in files for row in rows.values() if row.file == file))


@contextmanager
def _base(run: Run, registry: Registry, parts: Sequence[Part]) -> Iterator[DiffusionModel]:
    """Give the base model, made of the run's own model where that still is the base, else opened again."""
    base = open_base(unpacked(run.options), registry)
    try:
        with run.model.lend(base, parts):
            for part in parts:
                base.load(part)
            yield base
    finally:
        for part in parts:
            base.unload(part)


def _captions(run: Run, words: Sequence[str]) -> tuple[str, str]:
    """Give what is asked: words stand in files of an epoch under other names, so the data say others."""
    listed = " ".join(words)
    second = f"{listed} on a photo" if words else next(example_captions(run.index.instances))
    return f"a picture of {listed}", second


def _generators_kept(device: torch.device) -> Any:
    """Leave torch's generators as they are, for as long as the context lasts."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _remember(run: Run, files: Sequence[ExportedFile], certificate: Certificate | None) -> None:
    """Put what was found into `run.json`, in the place of what was known of these files, or of files that are gone."""
    written = {file.path.name for file in files}
    known = run.folder.read_facts().get("certificate", {})
    kept = {
        name: facts for name, facts in known.items() if name not in written and (run.folder.exports / name).exists()
    }
    found = {} if certificate is None else _facts(certificate)
    run.folder.write_facts({"certificate": kept | found})


def _facts(certificate: Certificate) -> dict[str, dict[str, dict[str, object]]]:
    return {row.file: certificate.facts(row.file) for row in certificate.rows}


def programs(output: OutputOptions) -> tuple[list[str], list[str]]:
    """List the programs the files must work in, named or given a copy, and those that are asked; empty: all."""
    from sdtune.export.folders import tell_webui
    from sdtune.formats.consumers.table import CONSUMERS

    webui = tell_webui(output.webui_dir) if output.webui_dir else "a1111"
    copied = {webui: output.webui_dir, "comfyui": output.comfyui_dir}
    chosen = dict.fromkeys([*output.consumers, *(name for name, root in copied.items() if root is not None)])
    return list(chosen), list(chosen) if output.consumers else list(CONSUMERS)
