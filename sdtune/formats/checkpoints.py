"""A model from a single file to a diffusers folder, back, or to another dtype; weights keep their bits unless cast."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

from sdtune.config.model import ModelOptions
from sdtune.errors import ConfigError
from sdtune.formats.casting import cast_in_place, short_name
from sdtune.formats.outputs import BytesOutput, Conversion, FolderOutput, TensorsOutput
from sdtune.models.architecture import FAMILIES
from sdtune.models.detect import FAMILY_TITLES
from sdtune.models.leftovers import known_kind, left_out
from sdtune.models.open import open_model
from sdtune.models.storage import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    from sdtune.formats.outputs import Request
    from sdtune.models.base import DiffusionModel

_INDEX = "model_index.json"


def convert_checkpoint(request: Request) -> Conversion:
    """Convert a model: TARGET with the suffix `.safetensors` is a single file, without one a diffusers folder.

    Raises:
        ConfigError: The form and TARGET's name do not go together, or TARGET is a folder of something else.
        ModelError: The model is not complete, or holds numbers too large for the dtype.
    """
    is_folder = _becomes_folder(request)
    model = _open(request)
    if is_folder:
        files = model.diffusers_files()
        groups = [tensors for tensors in files.values() if isinstance(tensors, dict)]
    else:
        tensors = model.webui_state_dict()
        groups = [tensors]
    for group in groups:
        cast_in_place(group, request.dtype)
    lines = tuple(_tell(request, model, groups, is_folder=is_folder))
    if is_folder:
        return Conversion(outputs=[FolderOutput(path=request.target, files=files)], lines=lines)
    metadata = {**request.source.metadata, **model.webui_metadata()}
    file = TensorsOutput(path=request.target, tensors=tensors, metadata=metadata)
    beside = model.webui_sidecars().items()
    sidecars = [BytesOutput(path=request.target.with_suffix(suffix), content=content) for suffix, content in beside]
    return Conversion(outputs=[file, *sidecars], lines=lines)


def _becomes_folder(request: Request) -> bool:
    suffix = request.target.suffix.lower()
    if request.to == "hcp":
        raise ConfigError("HCP-Diffusion has no form of its own for models", hint="choose --to diffusers")
    if suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ConfigError(f"a model is not written as {suffix}", hint="end TARGET in .safetensors")
    is_file = suffix == ".safetensors"
    if request.to and is_file == (request.to in ("diffusers", "folder")):
        raise ConfigError(
            f"--to {request.to} and {request.target.name} do not go together",
            hint="a single file ends in .safetensors, a folder does not",
        )
    if not is_file:
        _check_folder(request.target, request.source.path)
    return not is_file


def _check_folder(target: Path, source: Path) -> None:
    """Refuse a folder that is not a model's: replacing it would remove all that is in it."""
    if source.resolve().is_relative_to(target.resolve()):
        raise ConfigError(f"{target} holds the source", hint="choose another folder")
    if target.is_dir() and any(target.iterdir()) and not (target / _INDEX).exists():
        raise ConfigError(f"{target} is a folder of something else", hint="choose a new folder")


def _open(request: Request) -> DiffusionModel:
    if request.registry is None:
        raise ValueError("a model is opened by a registry of families")
    options = ModelOptions(path=str(request.source.path), family=request.family or "auto", tokenizer=request.tokenizer)
    return open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=request.registry)


def _tell(
    request: Request, model: DiffusionModel, groups: Iterable[dict[str, Tensor]], *, is_folder: bool
) -> Iterator[str]:
    tensors = [tensor for group in groups for tensor in group.values() if tensor.numel()]
    dtypes = Counter(short_name(tensor.dtype) for tensor in tensors)
    title = FAMILY_TITLES.get(model.family, model.family)
    forms = ("a single file", "a diffusers folder")
    yield f"{title} from {forms[request.source.path.is_dir()]} to {forms[is_folder]}"
    done = f"cast to {request.dtype}" if request.dtype else "the same bits"
    yield f"{len(tensors)} tensors, {', '.join(dtypes)}: {done}"
    if model.family == "sdxl" and request.dtype == "fp16":
        yield "warning: SDXL's own VAE overflows in fp16: use one that was mended for it, or --dtype bf16"
    storage = open_storage(request.source.path, FAMILIES[model.family])
    left = left_out(storage, keeps_extras=not is_folder)
    kinds = Counter(known_kind(name) or f"of no known use, e.g. {name}" for name in left)
    for kind, count in kinds.items():
        yield f"left out: {count} tensor{'s' * (count > 1)} {kind}"
