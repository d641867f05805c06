"""Where the weights of a model lie: one view over webui's single files and diffusers' folders.

Everything outside sees canonical names: diffusers' for UNet and VAE, the `text_model.` form for text encoders.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.models import naming
from sdtune.models.openclip import Layers, is_transposed
from sdtune.models.weights import find_weights, open_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from sdtune.models.architecture import SDFamily, TextFamily
    from sdtune.models.base import Component
    from sdtune.models.tensors import Entry, TensorFile

CONFIG_KEY = "sdtune.architecture"  # metadata of single files that sdtune writes: what shapes do not tell
_WEIGHTS, _TEXT_WEIGHTS = "diffusion_pytorch_model", "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPart:
    """One component as stored.

    Attributes:
        component: Which.
        file: The file it is in, or the index of several.
        entries: Canonical name to the place of its bytes, which may be a part of a stored tensor.
        transposed: Canonical names of matrices that are stored with rows and columns exchanged.
        config: Its architecture as far as it is stored; empty when only shapes tell.
        extras: Tensors of the component that nobody computes, by their names in a single file (no prefix): kept, so
            that a file that is written again is the same.
    """

    component: Component
    file: TensorFile
    entries: Mapping[str, Entry]
    config: Mapping[str, Any]
    transposed: frozenset[str] = frozenset()
    extras: Mapping[str, Entry] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical name to canonical shape."""
        return {name: self._shape(name) for name in self.entries}

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self.entries[name].shape
        return shape[::-1] if name in self.transposed else shape

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Read a tensor by its canonical name; see `Entry.read`."""
        tensor = self.entries[name].read(f"{self.component}.{name}", dtype)
        return tensor.T.contiguous() if name in self.transposed else tensor

    def unround(self, name: str, tensor: Tensor) -> Tensor:
        """Give a weight that is held as it is stored, where it is that in fewer bits; else as it is."""
        if tensor.itemsize == 4 or name not in self.entries:
            return tensor
        whole = self.read(name).reshape(tensor.shape)
        return whole if whole.to(tensor.dtype).equal(tensor.cpu()) else tensor

    def read_extras(self) -> dict[str, Tensor]:
        """Read what nobody computes."""
        return {name: entry.read(name) for name, entry in self.extras.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """All components as stored.

    Attributes:
        path: Single file or diffusers folder.
        shapes: Names and shapes that tell the family: the whole single file's, or those of a folder's UNet.
        components: The components that are there.
        scheduler: A folder's scheduler configuration, else empty.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    components: Mapping[Component, StoredPart]
    scheduler: Mapping[str, Any]


def read_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Read the names and shapes that tell a model's family: a whole single file's, or those of a folder's UNet.

    Raises:
        ModelError: There is no model, or no readable one.
    """
    if not path.is_dir():
        return open_weights(path).shapes
    _check_folder(path)
    return open_weights(find_weights(path / "unet", _WEIGHTS)).shapes


def open_storage(path: Path, family: SDFamily) -> StoredModel:
    """Read the headers of a model of a family, nothing more.

    Raises:
        ModelError: There is no model, or no readable one.
    """
    return _open_folder(path, family) if path.is_dir() else _open_file(path, family)


def _open_file(path: Path, family: SDFamily) -> StoredModel:
    file = open_weights(path)
    configs = _stored_configs(file, family)
    components = {}
    for component in family.components:
        prefix = family.prefix(component)
        own = {name.removeprefix(prefix): entry for name, entry in file.entries.items() if name.startswith(prefix)}
        entries, extras = _from_webui(component, own, family)
        if entries:
            components[component] = StoredPart(
                component=component,
                file=file,
                entries=entries,
                config=configs.get(component, {}),
                transposed=frozenset(filter(is_transposed, entries))
                if _is_openclip(component, family)
                else frozenset(),
                extras=extras,
            )
    return StoredModel(path=path, shapes=file.shapes, components=components, scheduler={})


def _stored_configs(file: TensorFile, family: SDFamily) -> Mapping[Component, Mapping[str, Any]]:
    if CONFIG_KEY not in file.metadata:
        return {}
    try:
        configs = json.loads(file.metadata[CONFIG_KEY])
        return {component: dict(configs[component]) for component in family.components if component in configs}
    except (ValueError, TypeError) as error:
        raise ModelError(f"{file.path}: its metadata '{CONFIG_KEY}' cannot be read") from error


def _is_openclip(component: Component, family: SDFamily) -> bool:
    return any(text.component == component and text.layout == "openclip" for text in family.texts)


def _from_webui(
    component: Component, own: Mapping[str, Entry], family: SDFamily
) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Split a component's ldm names (no prefix) into canonical ones, and those of tensors that are only kept.

    Names that belong to nothing are left out of both.
    """
    if component == "unet":
        rename = naming.unet_renaming(naming.ldm_unet_layout(own)).inverse
    elif component == "vae":
        rename = naming.vae_renaming(naming.vae_levels(own)).inverse
    else:
        return _from_text(own, family.text(component))
    return {new: entry for name, entry in own.items() if (new := _renamed(rename, name))}, {}


def _from_text(own: Mapping[str, Entry], text: TextFamily) -> tuple[dict[str, Entry], dict[str, Entry]]:
    if text.layout == "transformers":
        return {naming.text_name(name): entry for name, entry in own.items() if _is_text_weight(name)}, {}
    blocks = naming.count_numbers(own, r"transformer\.resblocks\.(\d+)\.")
    found = Layers(blocks - text.dropped_layers).locate(own)
    extras = {name: entry for name, entry in own.items() if _is_unused(name, blocks - text.dropped_layers)}
    if not text.is_pooled:
        extras |= {name: own[name] for name in ("text_projection",) if name in own}
        found = {name: entry for name, entry in found.items() if not is_transposed(name)}
    return found, extras


def _is_unused(name: str, layers: int) -> bool:
    return name == "logit_scale" or naming.count_numbers([name], r"transformer\.resblocks\.(\d+)\.") > layers


def _renamed(rename: naming.Renaming, name: str) -> str:
    try:
        return rename(name)
    except KeyError:  # a training leftover, e.g. the loss of an autoencoder
        return ""


def _is_text_weight(name: str) -> bool:
    # old files hold position_ids, a buffer; some hold a projection that SD1 does not use
    return not name.endswith(".position_ids") and not name.startswith(("text_projection", "logit_scale"))


def to_webui(component: Component, weights: Mapping[str, Tensor], family: SDFamily) -> Iterator[tuple[str, Tensor]]:
    """Give a component's canonical weights the names and shapes of a webui single file."""
    prefix = family.prefix(component)
    if component == "unet":
        rename = naming.unet_renaming(naming.unet_layout(weights))
        renamed = {rename(name): tensor for name, tensor in weights.items()}
    elif component == "vae":
        rename = naming.vae_renaming(naming.vae_levels(weights))
        renamed = {rename(name): _as_convolution(name, tensor) for name, tensor in weights.items()}
    elif family.text(component).layout == "openclip":
        layers = Layers(naming.count_numbers(weights, r"text_model\.encoder\.layers\.(\d+)\."))
        renamed = layers.encode(weights)
        renamed |= layers.repeat_last(renamed, family.text(component).dropped_layers)
    else:
        renamed = dict(weights)
    return ((prefix + name, tensor) for name, tensor in renamed.items())


def _as_convolution(name: str, tensor: Tensor) -> Tensor:
    """Give the VAE's attention weights ldm's shape, that of a 1x1 convolution."""
    return tensor.reshape(*tensor.shape[:2], 1, 1) if naming.is_vae_attention(name) else tensor


def _check_folder(path: Path) -> None:
    if not (path / "unet").is_dir():
        raise ModelError(
            f"{path} is not a diffusers model: it has no folder 'unet'",
            hint="give a file with weights or the folder with model_index.json",
        )


def _open_folder(path: Path, family: SDFamily) -> StoredModel:
    _check_folder(path)
    components = {c: _folder_part(path, c, family) for c in family.components if (path / c).is_dir()}
    return StoredModel(
        path=path,
        shapes=components["unet"].shapes,
        components=components,
        scheduler=read_json(path / "scheduler" / "scheduler_config.json"),
    )


def _folder_part(path: Path, component: Component, family: SDFamily) -> StoredPart:
    folder = path / component
    is_text = component not in naming.WEBUI_PREFIX
    file = open_weights(find_weights(folder, _TEXT_WEIGHTS if is_text else _WEIGHTS))
    entries = {}
    for name, entry in file.entries.items():
        if not is_text:
            entries[naming.modern_vae_name(name) if component == "vae" else name] = entry
        elif _is_text_weight(name) or (family.text(component).is_pooled and is_transposed(name)):
            entries[naming.text_name(name)] = entry
    return StoredPart(component=component, file=file, entries=entries, config=read_json(folder / "config.json"))


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a configuration; one that is not there is empty.

    Raises:
        ModelError: It cannot be read, or is no object.
    """
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", hint="download it again") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object", hint="download it again")
    return content
