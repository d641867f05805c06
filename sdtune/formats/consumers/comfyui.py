"""ComfyUI 0.3.64: `comfy/lora.py`, `comfy/weight_adapter`, `comfy/sd1_clip.py`, `comfy_extras/nodes_hypernetwork.py`.

What it passes over it names in its log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdtune.errors import ModelError
from sdtune.formats.consumers import adapters, contexts, embeddings, formulas
from sdtune.formats.consumers.adapters import find_algorithm, keys_of, note_layer, weight_change
from sdtune.formats.consumers.checkpoints import note_prediction, read_checkpoint
from sdtune.formats.consumers.ldm import unet_layers
from sdtune.formats.consumers.reading import BaseView, File, NeverError, Reading, Use, unpickle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdtune.formats.consumers.reading import Group
    from sdtune.models.base import DiffusionModel

_FEWEST = 5  # keys under the UNet's prefix, more of which make a checkpoint
_V_MARK, _ZERO_SNR_MARK = "v_pred", "ztsnr"
_TELLING, _TELLING_SPREAD = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias", 0.09
_TEXT = (*tuple(f"self_attn.{side}_proj" for side in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file as ComfyUI does."""
    match file.kind:
        case "lora":
            return read_adapters(file, view)
        case "checkpoint":
            if sum(name.startswith("model.diffusion_model.") for name in file.tensors) <= _FEWEST:
                return Reading(refused="no model is recognised: its UNet has another prefix")
            return _read_checkpoint(file, view, model)
        case "embedding" | "hypernetwork":
            return _read_loaded(file, view)


def _read_checkpoint(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Tell the family by the form of the UNet, and v by SDXL's marks or by the spread of one of SD2's biases."""
    if (found := _family(file)) != view.family:
        return Reading(refused=f"it is taken for a model of the family {found}")
    reading = read_checkpoint(file, view)
    if reading.refused:
        return reading
    match found:
        case "sdxl":
            has_mark = _V_MARK in file.tensors
            how = f"{'' if has_mark else 'no '}tensor {_V_MARK}"
            note_prediction(reading, model, "v_prediction" if has_mark else "epsilon", how)
            has_mark = _ZERO_SNR_MARK in file.tensors
            if model.schedule.has_zero_snr != has_mark and not reading.mistake:
                reading.mistake = f"its schedule {'ends' if has_mark else 'does not end'} in pure noise"
        case "sd2":
            spread = float(file.tensors[_TELLING].float().std(correction=0))
            is_v = spread > _TELLING_SPREAD
            note_prediction(reading, model, "v_prediction" if is_v else "epsilon", f"a bias spreads by {spread:.3f}")
        case _:
            note_prediction(reading, model, "epsilon", "as all of its family")
    if found != "sdxl" and reading.mistake:  # no mark could tell it
        reading.weakness = f"{reading.mistake}; its node ModelSamplingDiscrete helps"
    return reading


def _family(file: File) -> str:
    names = file.tensors
    if "model.diffusion_model.label_emb.0.0.weight" in names:
        return "sdxl"
    projections = (tensor for name, tensor in names.items() if name.endswith(".1.proj_in.weight"))
    return "sd2" if any(tensor.dim() == 2 for tensor in projections) else "sd1"


def _read_loaded(file: File, view: BaseView) -> Reading:
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
    reading, names = Reading(), dict(_names(view))
    for layer, group in file.groups.items():
        if layer.startswith("bundle_emb"):
            reading.used |= set(keys_of(layer, group))
        elif layer not in names:
            reading.skip(keys_of(layer, group), "no layer has this name")
        else:
            _read_layer(reading, layer, group, names[layer], view)
    return reading


def _read_layer(reading: Reading, layer: str, group: Group, target: str, view: BaseView) -> None:
    algorithm = find_algorithm(group, _ALGORITHMS)
    if algorithm is None:
        unknown = find_algorithm(group, adapters.ALGORITHMS)
        reading_of = reading.unknown if unknown else reading.skipped
        reading_of |= dict.fromkeys(keys_of(layer, group), "no algorithm knows these tensors")
        return
    bias = {name: group[name] for name in ("diff_b",) if name in group and name not in algorithm.names}
    rest = {name: tensor for name, tensor in group.items() if name not in bias}
    change = weight_change(algorithm, rest, _decompose)
    reading.weakness = reading.weakness or _weakness(group)
    note_layer(reading, layer, rest, target, algorithm, change=change, view=view)
    for name, tensor in bias.items():  # beside any algorithm
        use = Use(target=f"{target}.bias", keys=keys_of(layer, (name,)), change=adapters.added(tensor))
        reading.uses.append(use)


def _weakness(group: Group) -> str:
    if adapters.has_row_magnitudes(group):
        return "it divides DoRA's magnitudes of output rows by lengths of the base model's rows"
    if "oft_blocks" in group and ("rescale" in group or float(group.get("alpha", torch.tensor(0.0))) > 0):
        return "it knows no gains of a rotation, and takes alpha itself for its limit"
    return ""


def _names(view: BaseView) -> Iterator[tuple[str, str]]:
    """Map each name it accepts to a layer: CompVis's and diffusers' for the UNet, kohya's for text encoders."""
    ldm = unet_layers(view.of("unet"))
    for layer in view.of("unet"):
        for name in (ldm[layer], layer):
            yield f"lora_unet_{name.replace('.', '_')}", f"unet.{layer}"
    prefixes = {"text_encoder": ("lora_te", "lora_te1"), "text_encoder_2": ("lora_te2",)}
    for part, own in prefixes.items():
        for layer in view.of(part):
            if layer.endswith(_TEXT) or (part == "text_encoder_2" and layer == "text_projection"):
                for prefix in own:
                    yield f"{prefix}_{layer.replace('.', '_')}", f"{part}.{layer}"


def _decompose(weight: Tensor, merged: Tensor, magnitudes: Tensor) -> Tensor:
    """Divide by lengths of W's rows, not of those of W + dW, where the magnitudes are of rows."""
    if magnitudes.shape[0] == merged.shape[0]:
        lengths: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
        return merged * (magnitudes / lengths)
    return formulas.decomposed(merged, magnitudes)


def _kronecker(weight: Tensor, group: Group) -> Tensor:
    if "lokr_t2" in group:
        raise NeverError("the Kronecker product of a Tucker factor fails")
    return formulas.kronecker(group)


def _full(weight: Tensor, group: Group) -> Tensor:
    if group["diff"].shape != weight.shape:
        raise ValueError(f"shape mismatch: {list(group['diff'].shape)}, not {list(weight.shape)}")
    return group["diff"].float()


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


_ALGORITHMS = (
    adapters.LOW_RANK,
    adapters.HADAMARD,
    replace(adapters.KRONECKER, delta=_kronecker),
    adapters.BILINEAR,
    replace(adapters.ROTATION, delta=_rotate),
    replace(adapters.NORM, needs=adapters.having("w_norm")),
    replace(adapters.FULL, delta=_full),
    adapters.BIAS,
)
