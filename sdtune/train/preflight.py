"""Before the first step: which programs will read the files of a run as trained, from the files as they are now."""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sdtune.errors import ConfigError, Problems
from sdtune.models.open import open_model
from sdtune.train.assembly import unpacked
from sdtune.train.certification import programs
from sdtune.train.forecast import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdtune.config.schema import OutputOptions
    from sdtune.export.artifact import AnyArtifact, ArtifactKind
    from sdtune.export.certificate import Certificate, Row
    from sdtune.export.writer import Precision
    from sdtune.formats.consumers.reading import File
    from sdtune.models.base import DiffusionModel, Part
    from sdtune.plugins import Registry
    from sdtune.train.run import Run

logger = logging.getLogger(__name__)
_TITLES: Mapping[ArtifactKind, str] = {"lora": "LoRA", "checkpoint": "whole model"}
_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileToBe:
    """A file that a run will write.

    Attributes:
        name: Its name.
        kind: What it is.
        dtype: Of most of its tensors, `fp16`; empty where the method decides.
        size_bytes: About so large.
    """

    name: str
    kind: ArtifactKind
    dtype: str
    size_bytes: int

    def __str__(self) -> str:
        facts = [_TITLES.get(self.kind, self.kind), self.dtype, size(self.size_bytes)]
        return ", ".join(filter(None, facts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What programs will make of a run's files.

    Attributes:
        files: The files that go to webuis.
        certificate: What each program makes of each; None: that could not be told.
        problem: Why not.
        chosen: Program to the option that chose it.
    """

    files: tuple[FileToBe, ...] = ()
    certificate: Certificate | None = None
    problem: str = ""
    chosen: Mapping[str, str]

    def facts(self) -> dict[str, str]:
        """Give what the plan says where all is well."""
        by_readers: dict[str, list[FileToBe]] = {}
        for file in self.files:
            by_readers.setdefault(", ".join(map(_title, self._readers(file))), []).append(file)
        texts = [
            f"{', '.join(f'{file.name} ({file})' for file in files)}: {readers or 'no program reads it as trained'}"
            for readers, files in by_readers.items()
        ]
        return {"files": "; ".join(texts)} if texts else {}

    def notes(self) -> list[str]:
        """Tell which programs will not use the files as trained, one line each."""
        if self.problem:
            return [f"which programs will read the files cannot be told before training: {self.problem}"]
        return [
            *(_complaint(row, fault) for row, fault in self._faults()),
            *(f"{row.file} may act otherwise in {_title(row)}: {row.doubt}" for row in self._rows() if row.doubt),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values."""
        rows = {file.name: [row for row in self._rows() if row.file == file.name] for file in self.files}
        files = {
            file.name: {
                "kind": file.kind,
                "dtype": file.dtype,
                "bytes": file.size_bytes,
                "programs": {row.consumer: _described(row) for row in rows[file.name]},
            }
            for file in self.files
        }
        return {"files": files, "problem": self.problem, "chosen": dict(self.chosen)}

    def check(self) -> None:
        """Refuse options that go against each other: a program is chosen, and cannot use what is trained.

        Raises:
            ConfigError: Names program, file and reason, for each, and what to change.
        """
        from sdtune.formats.consumers.remedies import find_remedy

        problems = Problems(ConfigError)
        for row, fault in self._faults():
            if option := self.chosen.get(row.consumer):
                remedy = find_remedy(fault) or "docs/certificate.md tells the remedies"
                hint = f"{remedy}; or do not choose it; output.certify=false trains all the same"
                problems.add(_complaint(row, fault), where=f"chosen by {option}", hint=hint)
        problems.raise_if_any()

    def _rows(self) -> Sequence[Row]:
        return () if self.certificate is None else self.certificate.rows

    def _faults(self) -> list[tuple[Row, str]]:
        """List what is wrong, also in programs that nobody chose."""
        return [(row, fault) for row in self._rows() if (fault := row.fault(is_chosen=True))]

    def _readers(self, file: FileToBe) -> list[Row]:
        own = [row for row in self._rows() if row.file == file.name]
        return [row for row in own if not row.fault(is_chosen=True) and not row.doubt]


def _title(row: Row) -> str:
    from sdtune.formats.consumers.table import TITLES

    return TITLES[row.consumer]


def _complaint(row: Row, fault: str) -> str:
    return f"{_title(row)} will not use {row.file} as trained: {fault}"


def _described(row: Row) -> dict[str, object]:
    return {
        "verdict": row.fault(is_chosen=True) or (f"may act otherwise: {row.doubt}" if row.doubt else "good"),
        "used": row.used,
        "total": row.total,
        "skipped": dict(row.skipped),
        "unknown": dict(row.unknown),
    }


def check_files(run: Run) -> None:
    """Refuse a run whose files a chosen program cannot use; see `Preflight.check`."""
    if run.preflight:
        run.preflight.check()


def look_ahead(run: Run, registry: Registry) -> Preflight | None:
    """Export a run's files as they are before the first step, and let each program read them; the run stays as it is.

    Nothing is written into the run's folder. A method that cannot export yet, for whatever reason, is no error.

    Returns:
        None: it is not wanted, or the family's files are read by no program that is known.
    """
    from sdtune.export.certificate import FAMILIES

    if not run.options.output.certify or run.model.family not in FAMILIES:
        return None
    chosen = _chosen_by(run.options.output)
    try:
        with _left_as_it_is(run), tempfile.TemporaryDirectory() as folder:
            return _look_ahead(run, registry, chosen, Path(folder))
    except Exception as error:  # the plugin border: a method's export may raise anything
        logger.debug("files cannot be told before training", exc_info=True)
        text = str(error).partition("\n")[0] or type(error).__name__
        return Preflight(problem=text, chosen=chosen)


def _look_ahead(run: Run, registry: Registry, chosen: Mapping[str, str], folder: Path) -> Preflight | None:
    from sdtune.export.foresight import foresee

    info = run.info(0, "", has_hashes=False)
    with run.model.stored_weights(), run.model.hollow_files():
        artifacts = run.method.export(run.model, info)
        found = [_draft(artifact, info, folder, run.options.save.dtype) for artifact in artifacts]
    pairs = [pair for pair in found if pair is not None]
    if not pairs:
        return None
    files, described = zip(*pairs, strict=True)
    has_model = any(file.kind == "checkpoint" for file in files)
    base = hollow_base(run, registry, ("unet", "text_encoder", "vae") if has_model else ("unet", "text_encoder"))
    certificate = foresee(files, base, chosen=list(chosen), asked=programs(run.options.output)[1])
    return Preflight(files=described, certificate=certificate, chosen=chosen)


def hollow_base(run: Run, registry: Registry, parts: Sequence[Part]) -> DiffusionModel:
    """Open the base model of a run once more, with parts that have names and shapes and no values."""
    meta = torch.device("meta")
    base = open_model(unpacked(run.options).model, dtype=torch.float32, device=meta, registry=registry)
    for part in parts:
        base.load_empty(part)
    return base


def _draft(artifact: AnyArtifact, info: Any, folder: Path, dtype: Precision) -> tuple[File, FileToBe] | None:
    """Give a file as programs will find it; only what they read as a whole is written, into a folder of its own."""
    from sdtune.export.artifact import Artifact, BytesArtifact, PickledArtifact
    from sdtune.export.certificate import READABLE
    from sdtune.export.metadata import build_metadata
    from sdtune.export.writer import write_artifact
    from sdtune.formats.consumers.reading import File

    if isinstance(artifact, Artifact) and artifact.is_delivered:
        path = folder / f"{artifact.stem}.safetensors"
        metadata = build_metadata(artifact, info, with_captions=False)
        file = File(path=path, kind=artifact.kind, tensors=artifact.tensors, metadata=metadata)
        count = sum(tensor.numel() for tensor in artifact.tensors.values())
        return file, FileToBe(name=path.name, kind=artifact.kind, dtype=dtype, size_bytes=count * _BYTES[dtype])
    if isinstance(artifact, PickledArtifact | BytesArtifact) and artifact.is_delivered:
        path = write_artifact(artifact, info, folder, dtype=dtype)
        if path.suffix in READABLE:
            told = FileToBe(name=path.name, kind=artifact.kind, dtype="", size_bytes=path.stat().st_size)
            return File(path=path, kind=artifact.kind), told
    return None


def _chosen_by(output: OutputOptions) -> dict[str, str]:
    """Map programs the files must work in to the options that say so."""
    named = dict.fromkeys(output.consumers, "output.consumers")
    copied = {name: f"output.{'comfyui_dir' if name == 'comfyui' else 'webui_dir'}" for name in programs(output)[0]}
    return copied | named


@contextmanager
def _left_as_it_is(run: Run) -> Iterator[None]:
    """Put back what an export may touch: modes of modules and torch's random state."""
    modes = [(module, module.training) for module in run.model.modules()]
    devices = [run.device] if run.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        for module, is_training in modes:
            module.training = is_training
