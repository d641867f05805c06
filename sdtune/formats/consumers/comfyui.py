"""ComfyUI 0.3.64: `comfy/lora.py`, `comfy/weight_adapter`, `comfy/sd1_clip.py`, `comfy_extras/nodes_hypernetwork.py`.

What it passes over it names in its log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdtune.errors import ModelError
from sdtune.formats.consumers import adapters, comfy, contexts, dialects, embeddings, formulas
from sdtune.formats.consumers.adapters import keys_of
from sdtune.formats.consumers.checkpoints import note_prediction, read_checkpoint
from sdtune.formats.consumers.reading import BaseView, File, NeverError, Reading, unpickle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdtune.formats.consumers.reading import Group
    from sdtune.models.base import DiffusionModel

_TELLING, _TELLING_SPREAD = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
_NEW = {  # ends of keys that other models' trainers write
    ".lora_A": "lora_down.weight",
    ".lora_B": "lora_up.weight",
    ".lora_A.default.weight": "lora_down.weight",
    ".lora_B.default.weight": "lora_up.weight",
}


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file as ComfyUI does."""
    match file.kind:
        case "lora":
            return read_adapters(file, view)
        case "checkpoint":
            if not comfy.has_model(file):
                return Reading(refused="no model is recognised: its UNet has another prefix")
            return _read_checkpoint(file, view, model)
        case "embedding" | "hypernetwork":
            return _read_loaded(file, view)


def _read_checkpoint(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Tell the family by the form of the UNet, and v by SDXL's marks or by the spread of one of SD2's biases."""
    if (found := comfy.family(file)) != view.family:
        return Reading(refused=f"it is taken for a model of the family {found}")
    reading = read_checkpoint(file, view)
    if reading.refused:
        return reading
    match found:
        case "sdxl":
            has_mark = comfy.V_MARK in file.tensors
            how = f"{'' if has_mark else 'no '}tensor {comfy.V_MARK}"
            note_prediction(reading, model, "v_prediction" if has_mark else "epsilon", how)
            comfy.note_zero_snr(reading, file, model)
        case "sd2":
            spread = float(file.tensors[_TELLING].float().std(correction=0))
            is_v = spread > _TELLING_SPREAD
            note_prediction(reading, model, "v_prediction" if is_v else "epsilon", f"a bias spreads by {spread:.3f}")
        case _:
            note_prediction(reading, model, "epsilon", "as all of its family")
    if found != "sdxl" and reading.mistake:  # no mark could tell it
        reading.weakness = f"{reading.mistake}; its node ModelSamplingDiscrete helps"
    return reading


def _read_loaded(file: File, view: BaseView) -> Reading:
    if file.is_picture:
        return Reading(unsupported=embeddings.NO_PICTURES)
    try:
        content: Mapping[Any, Any] = unpickle(file.path) if file.is_pickled else file.tensors
    except ModelError as error:
        return Reading(refused=str(error))
    if file.kind == "hypernetwork":
        reading = contexts.read_networks(content, view, contexts.comfyui_network)
        reading.weakness = contexts.comfyui_weakness(content)
        return reading
    return _read_embedding(file, view, content)


def _read_embedding(file: File, view: BaseView, content: Mapping[Any, Any]) -> Reading:
    """Take, for each text encoder, the tensor of its name, or else the first there is."""
    reading, values = Reading(), embeddings.tensors_in(content)
    vectors: dict[str, Any] = {
        name: values.get(name, next(iter(values.values()), None)) for name in embeddings.widths(view)
    }
    if not all(isinstance(tensor, Tensor) for tensor in vectors.values()):
        return Reading(refused="its first entry is no tensor")
    used = {key: value for key, value in values.items() if any(value is tensor for tensor in vectors.values())}
    reading.skip(map(str, values.keys() - used.keys()), "only the first tensor is read")
    return embeddings.take_vectors(reading, file, view, vectors, used=used)


def read_adapters(file: File, view: BaseView) -> Reading:
    """Read an adapter's file by a map of names, one algorithm after the other."""
    if reason := dialects.only_hcp(file):
        return Reading(unsupported=reason)
    renamed = dialects.rename(file, dict(_names(view)), _ENDS)
    reading = comfy.read_layers(renamed, view, _ALGORITHMS)
    for layer, group in renamed.file.groups.items():
        if layer.startswith("bundle_emb"):
            for key in keys_of(layer, group):
                reading.skipped.pop(key)
                reading.used.add(key)
        elif _is_other_rotation(group):
            reading.weakness = "it knows no gains of a rotation, and takes alpha itself for its limit"
    return renamed.undo(reading)


def _is_other_rotation(group: Group) -> bool:
    return "oft_blocks" in group and ("rescale" in group or float(group.get("alpha", torch.tensor(0.0))) > 0)


def _names(view: BaseView) -> Iterator[tuple[str, str]]:
    """Map each name it accepts to a layer."""
    yield from comfy.unet_names(view)
    yield from comfy.text_names(view)
    for part, own in _encoders(view).items():
        for layer in view.of(part):
            yield f"text_encoders.{own}.transformer.{layer}", f"{part}.{layer}"


def _encoders(view: BaseView) -> dict[str, str]:
    return {"text_encoder": "clip_h" if view.family == "sd2" else "clip_l", "text_encoder_2": "clip_g"}


def _rotate(weight: Tensor, group: Group) -> Tensor:
    """Take alpha itself for the limit; gains of rows are for butterflies alone, which fail without alpha."""
    blocks = group["oft_blocks"].float()
    is_butterfly = blocks.dim() == 4
    if is_butterfly and "alpha" not in group:
        raise NeverError("a butterfly without alpha fails")
    limit = float(group["alpha"]) if "alpha" in group else 0.0
    turned = formulas.rotated(weight, formulas.rotations(blocks, limit))
    gain = group["rescale"].float() if is_butterfly and "rescale" in group else 1.0
    return gain * turned - weight


_ENDS = {**dialects.OWN, **dialects.OLD, **dialects.PEFT, **_NEW}
_ALGORITHMS = (*comfy.ALGORITHMS, replace(adapters.ROTATION, delta=_rotate))
