"""Keys of adapters in every dialect: a layer's name, and one of many ends for the same tensors.

kohya         `lora_unet_down_blocks_0_….lora_down.weight`
diffusers     `unet.down_blocks.0.….to_q.lora_A.weight`; alpha, if any, in the metadata `lora_adapter_metadata`
of old        `unet.….attn1.processor.to_q_lora.down.weight`, `text_encoder.….lora_linear_layer.down.weight`
HCP-Diffusion `lora:down_blocks.0.….to_q.___.layer.W_down`; what it calls alpha is divided by the rank already

A program looks up the names it knows. So a file is brought into kohya's form by a program's own list of names: the keys
of the list are renamed, and all others stay what they are.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from sdtune.formats.consumers.adapters import ALGORITHMS, ALPHA, DORA, kohya_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView, File, Reading

METADATA = "lora_adapter_metadata"
Ends = dict[str, str]
"""The end of a key, from the layer's name on, to kohya's name of the tensor."""
OWN: Ends = {f".{name}": name for algorithm in ALGORITHMS for name in algorithm.names}
PEFT: Ends = {".lora_A.weight": "lora_down.weight", ".lora_B.weight": "lora_up.weight"}
OLD: Ends = {
    f"{middle}.{side}.weight": f"lora_{side}.weight"
    for middle in ("_lora", ".lora", ".lora_linear_layer")
    for side in ("up", "down")
}
_HCP: Ends = {
    ".layer.W_down": "lora_down.weight",
    ".layer.W_up": "lora_up.weight",
    ".layer.lora_down.weight": "lora_down.weight",
    ".layer.lora_up.weight": "lora_up.weight",
    ".alpha": ALPHA,
}
_MAGNITUDES = ".lora_magnitude_vector"
_MEANT: Ends = OWN | PEFT | OLD | _HCP | {_MAGNITUDES: DORA, f"{_MAGNITUDES}.weight": DORA}
_FOREIGN = re.compile(r"\.lora_(?:A|B|magnitude_vector)\b|_lora\.|\.lora\.|\.lora_linear_layer\.")
_HCP_MARK = ".___."
DOT = "/"  # stands for a dot in a layer's name, since a file's keys are split at the first one
_ONLY_HCP = "only HCP-Diffusion reads its own names; 'sdtune convert' helps"
_NO_DIFFUSERS = "it passes over diffusers' names without a word, so nothing changes; 'sdtune convert' helps"
LOST_ALPHA = f"it reads no alpha from the metadata {METADATA}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A file in kohya's form.

    Attributes:
        file: The file.
        keys: New key to that of the real file; None: it stands in the metadata.
        names: Name of a layer, as `file` has it, to the layer.
    """

    file: File
    keys: Mapping[str, str | None]
    names: Mapping[str, str]

    def undo(self, reading: Reading) -> Reading:
        """Give a reading of `file` the keys of the real file."""
        reading.uses = [replace(use, keys=tuple(self._real(use.keys))) for use in reading.uses]
        reading.used = set(self._real(reading.used))
        reading.skipped = {key: reason for new, reason in reading.skipped.items() for key in self._real([new])}
        reading.unknown = {key: reason for new, reason in reading.unknown.items() for key in self._real([new])}
        return reading

    def _real(self, keys: Any) -> Iterator[str]:
        for key in keys:
            real = self.keys.get(key, key)
            if real is not None:
                yield real


def rename(file: File, names: Mapping[str, str], ends: Ends) -> Renamed:
    """Bring the keys of known layers into kohya's form.

    Args:
        file: The file.
        names: Name of a layer in files, dots and all, to the layer.
        ends: What may follow a name.
    """
    tensors, keys = {}, {}
    for key, tensor in file.tensors.items():
        new = _new_key(key, names, ends)
        tensors[new], keys[new] = tensor, key
    plain = {name.replace(".", DOT): layer for name, layer in names.items()}
    return Renamed(file=replace(file, tensors=tensors), keys=keys, names=plain)


def _new_key(key: str, names: Mapping[str, str], ends: Ends) -> str:
    for place in (at for at, letter in enumerate(key) if letter in "._"):
        if key[place:] in ends and key[:place] in names:
            return f"{key[:place].replace('.', DOT)}.{ends[key[place:]]}"
    return key


def as_meant(file: File, view: BaseView) -> Renamed:
    """Bring a file of any dialect into kohya's form, with the alpha that was meant."""
    renamed = rename(file, _meant_names(view), _MEANT)
    told: dict[str, Any] = json.loads(file.metadata.get(METADATA, "{}"))
    tensors: dict[str, Tensor] = dict(renamed.file.tensors)
    keys = dict(renamed.keys)
    for layer, group in renamed.file.groups.items():
        target, key = renamed.names.get(layer), f"{layer}.{ALPHA}"
        if target is None or "lora_down.weight" not in group:
            continue
        if layer.endswith("___") and ALPHA in group:
            tensors[key] = group[ALPHA].float() * len(group["lora_down.weight"])
        elif ALPHA not in group and (alpha := _told_alpha(told, target, len(group["lora_down.weight"]))) is not None:
            tensors[key], keys[key] = torch.tensor(alpha), None
        if DORA in group and DOT in layer:  # PEFT's are of output rows, in one dimension
            rows = group["lora_up.weight"]
            tensors[f"{layer}.{DORA}"] = group[DORA].reshape(-1, *[1] * (rows.dim() - 1))
    return Renamed(file=replace(file, tensors=tensors), keys=keys, names=renamed.names)


def known_keys(file: File, view: BaseView) -> set[str]:
    """List the keys that stand, in one dialect or another, for a layer of the model."""
    names = _meant_names(view)
    return {key for key in file.tensors if _new_key(key, names, _MEANT) != key or key.partition(".")[0] in names}


def _meant_names(view: BaseView) -> dict[str, str]:
    return kohya_names(view) | dict(_dotted_names(view))


def _told_alpha(told: Mapping[str, Any], target: str, rank: int) -> float | None:
    """Follow PEFT's rule: of the patterns that a layer's name ends with the first counts; else alpha for all."""
    component, _, module = target.partition(".")
    alpha = told.get(f"{component}.lora_alpha")
    if alpha is None:
        return None
    for pattern, value in (told.get(f"{component}.alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return float(alpha) * (math.sqrt(rank) if told.get(f"{component}.use_rslora") else 1.0)


def _dotted_names(view: BaseView) -> Iterator[tuple[str, str]]:
    """Map each name of diffusers, PEFT and HCP-Diffusion to a layer."""
    for layer in view.of("unet"):
        for name in _variants(layer):
            for prefix in ("unet.", "", "base_model.model.", "base_model.model.unet."):
                yield prefix + name, f"unet.{layer}"
        for prefix in ("", "denoiser."):
            yield f"lora:{prefix}{layer}.___", f"unet.{layer}"
    prefixes = {"text_encoder": ("", "TE.", "clip_L.", "clip_B."), "text_encoder_2": ("clip_bigG.",)}
    for part, owners in prefixes.items():
        for layer in view.of(part):
            for name in _variants(layer):
                yield f"{part}.{name}", f"{part}.{layer}"
                yield f"{part}.{name.removeprefix('text_model.')}", f"{part}.{layer}"
            if part == "text_encoder":
                yield layer, f"{part}.{layer}"
            for owner in owners:
                yield f"lora:{owner}{layer}.___", f"{part}.{layer}"


def _variants(layer: str) -> Iterator[str]:
    """Give diffusers' name of a layer, and those it had before 0.18."""
    yield layer
    stem, attention, rest = layer.rpartition(".to_")
    if attention:
        old = rest.removesuffix(".0")
        yield f"{stem}.processor.to_{old}"
        yield f"{stem}.to_{old}"
    stem, attention, rest = layer.rpartition(".self_attn.")
    if attention:
        yield f"{stem}.self_attn.to_{rest.removesuffix('_proj')}"


def is_foreign(key: str) -> bool:
    """Tell whether a key is in the form of diffusers or PEFT, of today or of old."""
    return bool(_FOREIGN.search(key)) and not key.startswith("lora_") and not is_hcp(key)


def is_hcp(key: str) -> bool:
    """Tell whether a key is in the form of HCP-Diffusion."""
    return _HCP_MARK in key


def only_hcp(file: File) -> str:
    """Tell that a file is HCP-Diffusion's; empty when it is not."""
    return _ONLY_HCP if file.tensors and all(map(is_hcp, file.tensors)) else ""


def without_effect(file: File) -> str:
    """Tell why a program that knows kohya's names alone does nothing with a file; empty when it may do something."""
    return only_hcp(file) or (_NO_DIFFUSERS if file.tensors and all(map(is_foreign, file.tensors)) else "")
