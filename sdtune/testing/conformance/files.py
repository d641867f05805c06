"""Checks of what a method exports."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdtune.export.writer import write_artifact
from sdtune.models.naming import UNET_ADAPTER_PREFIX
from sdtune.testing.conformance.compare import expect, expect_none
from sdtune.testing.conformance.subject import STEPS, disturb, predict, trained
from sdtune.testing.webui import load_like_webui

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from sdtune.models.base import DiffusionModel, Part
    from sdtune.testing.conformance.subject import Subject
    from sdtune.train.run import Run

PICKLED = (".pt", ".optim", ".ckpt")
LAYER_PREFIX = UNET_ADAPTER_PREFIX.partition("_")[0] + "_"  # of every kohya-style name, whatever the method
METADATA = (
    *("ss_base_model_version", "ss_output_name", "ss_steps", "ss_sd_model_name"),
    *("modelspec.sai_model_spec", "modelspec.architecture", "modelspec.title", "sdtune_version"),
)


def exports_readable_files(subject: Subject, folder: Path) -> None:
    """Read every file as webuis do, and look for layers' names that no model has."""
    run = trained(subject).run
    names = layer_names(run.model)
    paths = exported_files(run)
    expect(bool(paths), "nothing is exported")
    for path in paths:
        tensors = read_tensors(path)
        expect_none((name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()), "not finite")
        kohya = {name.split(".")[0] for name in tensors if name.startswith(LAYER_PREFIX)}
        expect_none(sorted(kohya - names), f"{path.name} names layers the model has not")


def tells_metadata(subject: Subject, folder: Path) -> None:
    """Read the header of each safetensors file, and compute its hash again."""
    for path in exported_files(trained(subject).run):
        if path.suffix == ".safetensors":
            metadata, body = read_header(path)
            expect_none((name for name in METADATA if not metadata.get(name)), f"{path.name} does not tell")
            digest = hashlib.sha256(body).hexdigest()
            expect(metadata.get("sshs_model_hash") == digest, f"{path.name} has a wrong sshs_model_hash")
            expect(all(type(value) is str for value in metadata.values()), "metadata must be strings")


def exports_equal_bytes(subject: Subject, folder: Path) -> None:
    """Export one run twice, and compare every byte."""
    first, second = (dict(_export_once(subject, folder / name)) for name in ("first", "second"))
    expect_none(first.keys() ^ second.keys(), "not exported each time")
    expect_none((name for name, data in first.items() if data != second[name]), "differ between two exports")


def reloads_the_prediction(subject: Subject, folder: Path) -> None:
    """Put the files into a fresh base model, and compare its answer with the trained model's."""
    run, fresh = trained(subject).run, subject.open_base(folder)
    wanted, base = predict(run.model), predict(fresh)
    assert subject.reload is not None
    with torch.no_grad():
        for path in exported_files(run):
            if path.name in delivered_names(run):
                subject.reload(fresh, path)
    error, effect = float((predict(fresh) - wanted).abs().max()), float((base - wanted).abs().max())
    expect(effect > 0, "training has no effect on the answer")
    expect(error <= subject.tolerance * effect, f"the file's effect is off by {error / effect:.2g} of the trained one")


def exported_files(run: Run) -> list[Path]:
    """List what a run has exported, folders as such."""
    return sorted(run.folder.exports.iterdir())


def delivered_names(run: Run) -> set[str]:
    """Name the files a webui gets."""
    return {file["name"] for file in run.folder.read_facts()["files"]}


def exported_tensors(run: Run) -> dict[str, Tensor]:
    """Read all tensors of all files of a run."""
    return {
        f"{path.name}: {name}": tensor for path in exported_files(run) for name, tensor in read_tensors(path).items()
    }


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, or of the files of a folder; files of another kind have none.

    Raises:
        ValueError: A webui refuses a `.pt` file.
        SafetensorError: A `.safetensors` file cannot be read.
    """
    if path.is_dir():
        inner = (file for file in sorted(path.rglob("*")) if file.is_file())
        return {f"{file.relative_to(path)}: {name}": t for file in inner for name, t in read_tensors(file).items()}
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, Tensor] = load_file(path)
        return tensors
    return dict(_tensors_in(load_like_webui(path), "")) if path.suffix in PICKLED else {}


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Read a safetensors file by its own few rules: the metadata, and all bytes after the header."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]).get("__metadata__", {}), data[end:]


def layer_names(model: DiffusionModel) -> set[str]:
    """Give the kohya-style name of every module of the UNet and the text encoder."""
    model.load("text_encoder")
    names = set()
    parts: tuple[Part, ...] = ("unet", "text_encoder")
    for part in parts:
        for path, _ in model.layers(part):
            with suppress(KeyError):  # a module that only holds others
                names.add(model.webui_key(path))
    return names


def _tensors_in(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, torch.Tensor):
        yield place, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_in(item, f"{place}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors_in(item, f"{place}/{index}")


def _export_once(subject: Subject, folder: Path) -> Iterator[tuple[str, bytes]]:
    run = trained(subject).run
    disturb()
    info = replace(run.info(STEPS, ""), finished_at=run.clock.started_at)
    for artifact in run.method.export(run.model, info):
        write_artifact(artifact, info, folder, dtype=run.options.save.dtype)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()
