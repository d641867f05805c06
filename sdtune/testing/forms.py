"""A tiny model in every form that base models come in: single files, folders of diffusers, the hub's cache."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from sdtune.models.architecture import FAMILIES
from sdtune.models.naming import WEBUI_PREFIX
from sdtune.models.snapshot import pipeline_files, sidecar_files
from sdtune.testing.tiny import write_folder, write_single_file, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from sdtune.models.base import Component, Prediction

    Written = dict[str, str]

HUB_ID = "owner/tiny"
_COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"


def write_form(
    form: str,
    folder: Path,
    components: Mapping[Component, nn.Module],
    family: str,
    *,
    prediction: Prediction = "epsilon",
) -> dict[str, str]:
    """Write a model in one of `FORMS`.

    A model that predicts v says so in the way of its form: a `.yaml` beside a single file, a folder's scheduler.

    Args:
        form: Which.
        folder: An empty folder. The form `hub` makes it a cache: set `huggingface_hub.constants.HF_HUB_CACHE` to it.
        components: As `tiny_components` makes them.
        family: `sd1`, `sd2` or `sdxl`.
        prediction: What the model predicts.

    Returns:
        Options that open it, without `model.`: `path`, and for some forms `vae`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return FORMS[form](_Tiny(components, family, prediction), folder)


@dataclass(frozen=True, slots=True)
class _Tiny:
    components: Mapping[Component, nn.Module]
    family: str
    prediction: Prediction

    def half(self) -> _Tiny:
        return replace(self, components={name: copy.deepcopy(part).half() for name, part in self.components.items()})


def _write_file(model: _Tiny, folder: Path) -> Written:
    """Write a single file, its tokenizer, and the `.yaml` of a model that predicts v."""
    path = folder / "tiny.safetensors"
    write_single_file(path, model.components, model.family)
    write_tokenizer(folder / "tokenizer")
    if model.prediction == "v_prediction":
        known, unet, vae = FAMILIES[model.family], model.components["unet"], model.components["vae"]
        (content,) = sidecar_files(known, unet, vae, known.scaling_factor, model.prediction).values()
        path.with_suffix(".yaml").write_bytes(content)
    return {"path": str(path)}


def _write_ckpt(model: _Tiny, folder: Path, *, is_archive: bool = True) -> Written:
    """Write a checkpoint as its trainer does: an archive, or a row of pickles as before PyTorch 1.6."""
    import torch
    from safetensors.torch import load_file

    _write_file(model, folder)
    content = {"state_dict": load_file(folder / "tiny.safetensors"), "global_step": 1000}
    torch.save(content, folder / "tiny.ckpt", _use_new_zipfile_serialization=is_archive)
    (folder / "tiny.safetensors").unlink()
    return {"path": str(folder / "tiny.ckpt")}


def _write_file_and_vae(model: _Tiny, folder: Path) -> Written:
    """Write a single file without its VAE, and the VAE beside it under bare names, as webui's `models/VAE` has them."""
    from safetensors.torch import load_file, save_file

    _write_file(model, folder)
    path, prefix = folder / "tiny.safetensors", WEBUI_PREFIX["vae"]
    tensors = load_file(path)
    vae = {name: tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}
    save_file(tensors, path)
    save_file({name.removeprefix(prefix): tensor for name, tensor in vae.items()}, folder / "own.vae.safetensors")
    return {"path": str(path), "vae": str(folder / "own.vae.safetensors")}


def _write_folder(model: _Tiny, folder: Path) -> Written:
    """Write a diffusers folder whose scheduler says what the model predicts."""
    write_folder(folder, cast("Mapping[Component, Any]", model.components), model.family)
    for name, content in pipeline_files(FAMILIES[model.family], {}, model.prediction).items():
        (folder / name).write_bytes(content)
    return {"path": str(folder)}


def _write_variant(model: _Tiny, folder: Path) -> Written:
    """Write a folder whose weights are named `….fp16.safetensors`."""
    written = _write_folder(model.half(), folder)
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_suffix(".fp16.safetensors"))
    return written


def _write_shards(model: _Tiny, folder: Path) -> Written:
    """Write a folder with the weights of each part in two files and an index."""
    from safetensors.torch import load_file, save_file

    written = _write_folder(model, folder)
    for path in list(folder.glob("*/*.safetensors")):
        tensors = load_file(path)
        names = [f"{path.stem}-{number:05}-of-00002.safetensors" for number in (1, 2)]
        places = {name: names[place % 2] for place, name in enumerate(tensors)}
        for own in names:
            save_file({name: tensors[name] for name in tensors if places[name] == own}, path.with_name(own))
        path.with_suffix(".safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
        path.unlink()
    return written


def _write_bin(model: _Tiny, folder: Path) -> Written:
    """Write a folder with pickled weights, as old ones have."""
    import torch
    from safetensors.torch import load_file

    written = _write_folder(model, folder)
    for path in list(folder.glob("*/*.safetensors")):
        name = "pytorch_model.bin" if path.stem == "model" else f"{path.stem}.bin"
        torch.save(load_file(path), path.with_name(name))
        path.unlink()
    return written


def _write_hub(model: _Tiny, folder: Path) -> Written:
    """Write a folder into a cache of the hub, as huggingface_hub lays it out: links to blobs."""
    repository = folder / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / _COMMIT
    snapshot.mkdir(parents=True)
    _write_folder(model, snapshot)
    for place in ("blobs", "refs"):
        (repository / place).mkdir()
    for number, file in enumerate(sorted(path for path in snapshot.rglob("*") if path.is_file())):
        file.symlink_to(file.rename(repository / "blobs" / f"{number:064x}"))
    (repository / "refs" / "main").write_text(_COMMIT, encoding="ascii")
    return {"path": HUB_ID}


FORMS: Mapping[str, Callable[[_Tiny, Path], Written]] = {
    "file": _write_file,
    "half-file": lambda model, folder: _write_file(model.half(), folder),
    "ckpt": _write_ckpt,
    "old-ckpt": lambda model, folder: _write_ckpt(model, folder, is_archive=False),
    "file-and-vae": _write_file_and_vae,
    "folder": _write_folder,
    "half-folder": _write_variant,
    "shards": _write_shards,
    "bin": _write_bin,
    "hub": _write_hub,
}
HALF_FORMS = frozenset({"half-file", "half-folder"})  # these hold the weights rounded to fp16
