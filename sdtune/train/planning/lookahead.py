"""A run's files as they are before the first step, exported and read as other programs will; the run stays as it is."""

from __future__ import annotations

import logging
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdtune.export.artifact import Artifact, BytesArtifact, PickledArtifact
from sdtune.export.certificate import FAMILIES, READABLE
from sdtune.export.foresight import foresee
from sdtune.export.metadata import build_metadata
from sdtune.export.writer import write_artifact
from sdtune.formats.consumers.reading import File
from sdtune.models.open import open_model
from sdtune.train.assembly.assembling import unpacked
from sdtune.train.certification import programs
from sdtune.train.machine.device import DTYPES
from sdtune.train.planning.preflight import FileToBe, Preflight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sdtune.config.schema import OutputOptions
    from sdtune.export.artifact import AnyArtifact
    from sdtune.export.writer import Precision
    from sdtune.models.base import DiffusionModel, Part
    from sdtune.plugins import Registry
    from sdtune.train.info import RunInfo
    from sdtune.train.run import Run

logger = logging.getLogger(__name__)


def look_ahead(run: Run, registry: Registry) -> Preflight | None:
    """Export a run's files as they are before the first step, and let each program read them; the run stays as it is.

    Nothing is written into the run's folder. A method that cannot export yet, for whatever reason, is no error.

    Returns:
        None: it is not wanted, or the family's files are read by no program that is known.
    """
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


def _draft(artifact: AnyArtifact, info: RunInfo, folder: Path, dtype: Precision) -> tuple[File, FileToBe] | None:
    """Give a file as programs will find it; only what they read as a whole is written, into a folder of its own."""
    if isinstance(artifact, Artifact) and artifact.is_delivered:
        path = folder / f"{artifact.stem}.safetensors"
        metadata = build_metadata(artifact, info, with_captions=False)
        file = File(path=path, kind=artifact.kind, tensors=artifact.tensors, metadata=metadata)
        count = sum(tensor.numel() for tensor in artifact.tensors.values()) * DTYPES[dtype].itemsize
        return file, FileToBe(name=path.name, kind=artifact.kind, dtype=dtype, size_bytes=count)
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
