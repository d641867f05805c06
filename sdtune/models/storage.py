"""Where the weights of a model lie: one view over webui's single files and diffusers' folders.

Everything outside sees canonical names: diffusers' for UNet and VAE, the `text_model.` form for the text encoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models import naming
from sdtune.models.weights import find_weights, open_weights

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from sdtune.models.base import Part
    from sdtune.models.tensors import Entry, TensorFile

PARTS: tuple[Part, ...] = ("unet", "vae", "text_encoder")
CONFIG_KEY = "sdtune.architecture"  # metadata of single files that sdtune writes: what shapes do not tell
_STEM: Mapping[Part, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One part as stored.

    Attributes:
        part: Which.
        file: The file it is in, or the index of several.
        names: Canonical name to the name in the file.
        config: Its architecture as far as it is stored; empty when only shapes tell.
    """

    part: Part
    file: TensorFile
    names: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name to stored shape."""
        return {name: self.entry(name).shape for name in self.names}

    def entry(self, name: str) -> Entry:
        """Find the place of a tensor by its canonical name."""
        return self.file.entries[self.names[name]]

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Read a tensor by its canonical name; see `TensorFile.read`."""
        return self.file.read(self.names[name], dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """All parts as stored.

    Attributes:
        path: Single file or diffusers folder.
        shapes: Names and shapes that tell the family: the whole single file's, or those of a folder's UNet.
        parts: The parts that are there.
        scheduler: A folder's scheduler configuration, else empty.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    parts: Mapping[Part, StoredPart]
    scheduler: Mapping[str, Any]


def open_storage(path: Path) -> StoredModel:
    """Read the headers of a model, nothing more.

    Raises:
        ModelError: There is no model, or no readable one.
    """
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _open_file(path: Path) -> StoredModel:
    file = open_weights(path)
    configs = _stored_configs(file)
    parts: dict[Part, StoredPart] = {}
    for part in PARTS:
        prefix = naming.WEBUI_PREFIX[part]
        bare = [name.removeprefix(prefix) for name in file.entries if name.startswith(prefix)]
        names = {new: prefix + old for old, new in _from_webui(part, bare).items()}
        if names:
            parts[part] = StoredPart(part=part, file=file, names=names, config=configs.get(part, {}))
    return StoredModel(path=path, shapes=file.shapes, parts=parts, scheduler={})


def _stored_configs(file: TensorFile) -> Mapping[Part, Mapping[str, Any]]:
    if CONFIG_KEY not in file.metadata:
        return {}
    try:
        configs = json.loads(file.metadata[CONFIG_KEY])
        return {part: dict(configs[part]) for part in PARTS if part in configs}
    except (ValueError, TypeError) as error:
        raise ModelError(f"{file.path}: its metadata '{CONFIG_KEY}' cannot be read") from error


def _from_webui(part: Part, names: list[str]) -> dict[str, str]:
    """Map a part's ldm names (no prefix) to canonical ones; names that belong to no layer are left out."""
    if part == "text_encoder":
        return {name: naming.text_name(name) for name in names if _is_text_weight(name)}
    if part == "unet":
        rename = naming.unet_renaming(naming.ldm_unet_layout(names)).inverse
    else:
        rename = naming.vae_renaming(naming.vae_levels(names)).inverse
    return {name: new for name in names if (new := _renamed(rename, name))}


def _renamed(rename: naming.Renaming, name: str) -> str:
    try:
        return rename(name)
    except KeyError:  # a training leftover, e.g. the loss of an autoencoder
        return ""


def _is_text_weight(name: str) -> bool:
    # old files hold position_ids, a buffer; some hold a projection that SD1 does not use
    return not name.endswith(".position_ids") and not name.startswith(("text_projection", "logit_scale"))


def to_webui(part: Part, names: list[str]) -> dict[str, str]:
    """Map a part's canonical names to those of a webui single file."""
    if part == "unet":
        rename = naming.unet_renaming(naming.unet_layout(names))
    elif part == "vae":
        rename = naming.vae_renaming(naming.vae_levels(names))
    else:
        rename = naming.Renaming({"text_model": "text_model"})
    return {name: naming.WEBUI_PREFIX[part] + rename(name) for name in names}


def _open_folder(path: Path) -> StoredModel:
    if not (path / "unet").is_dir():
        raise ModelError(
            f"{path} is not a diffusers model: it has no folder 'unet'",
            hint="give a file with weights or the folder with model_index.json",
        )
    parts = {part: _folder_part(path, part) for part in PARTS if (path / part).is_dir()}
    return StoredModel(
        path=path,
        shapes=parts["unet"].shapes,
        parts=parts,
        scheduler=_read_json(path / "scheduler" / "scheduler_config.json"),
    )


def _folder_part(path: Path, part: Part) -> StoredPart:
    folder = path / part
    file = open_weights(find_weights(folder, _STEM[part]))
    names = {_canonical(part, name): name for name in file.entries if part != "text_encoder" or _is_text_weight(name)}
    return StoredPart(part=part, file=file, names=names, config=_read_json(folder / "config.json"))


def _canonical(part: Part, name: str) -> str:
    if part == "text_encoder":
        return naming.text_name(name)
    return naming.modern_vae_name(name) if part == "vae" else name


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return content
