"""What ComfyUI and Forge do alike: Forge took its reading of adapters and its guess of models from ComfyUI in 2024.

`comfy/lora.py`, `comfy/utils.py` and `comfy/model_detection.py`; in Forge `packages_3rdparty/comfyui_lora_collection`,
`backend/patcher/lora.py` and lllyasviel/huggingface_guess.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from sdtune.formats.consumers import adapters, dialects, formulas
from sdtune.formats.consumers.adapters import find_algorithm, keys_of, note_layer, weight_change
from sdtune.formats.consumers.ldm import unet_layers
from sdtune.formats.consumers.reading import NeverError, Reading, Use

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from sdtune.formats.consumers.adapters import Algorithm
    from sdtune.formats.consumers.dialects import Renamed
    from sdtune.formats.consumers.reading import BaseView, File, Group
    from sdtune.models.base import DiffusionModel

_TEXT = (*tuple(f"self_attn.{side}_proj" for side in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2")
_OF_TODAY = "it knows attention by diffusers' names of 2023 alone; 'sdtune convert' helps"
_NO_NAME = "it has no name for this layer"
_FEWEST = 5  # keys under the UNet's prefix, more of which make a checkpoint
V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"
# A tensor that is looked for, and those that must be there with it.
_PARTNERS = {
    "lora_up.weight": {"lora_down.weight"},
    "hada_w1_a": {"hada_w1_b", "hada_w2_a", "hada_w2_b"},
    "a1.weight": {"a2.weight", "b1.weight", "b2.weight"},
}


def unet_names(view: BaseView) -> Iterator[tuple[str, str]]:
    """Map each name they accept for a layer of the UNet to the layer: CompVis's and diffusers', of several forms."""
    ldm = unet_layers(view.of("unet"))
    for layer in view.of("unet"):
        target, old = f"unet.{layer}", layer.replace(".to_", ".processor.to_")
        old = old.removesuffix(".0") if old.endswith(".to_out.0") else old
        names = (f"lora_unet_{ldm[layer].replace('.', '_')}", f"diffusion_model.{ldm[layer]}")
        plain = layer.replace(".", "_")
        for name in (*names, f"lora_unet_{plain}", f"lycoris_{plain}", old, f"unet.{old}"):
            yield name, target


def text_names(view: BaseView) -> Iterator[tuple[str, str]]:
    """Map each name they accept for a layer of a text encoder to the layer: attention and MLP alone."""
    prefixes = {"text_encoder": ("lora_te", "lora_te1"), "text_encoder_2": ("lora_te2",)}
    for part, own in prefixes.items():
        for layer in view.of(part):
            if layer.endswith(_TEXT):
                yield f"{part}.{layer}", f"{part}.{layer}"
            if layer.endswith(_TEXT) or (part == "text_encoder_2" and layer == "text_projection"):
                for prefix in own:
                    yield f"{prefix}_{layer.replace('.', '_')}", f"{part}.{layer}"


def read_layers(renamed: Renamed, view: BaseView, algorithms: Sequence[Algorithm]) -> Reading:
    """Read an adapter's file by the program's names; the reading's keys are those of `renamed`."""
    reading, known = Reading(), dialects.known_keys(renamed.file, view)
    for layer, group in renamed.file.groups.items():
        if layer in renamed.names:
            _read_layer(reading, layer, group, renamed.names[layer], view=view, algorithms=algorithms)
            continue
        for key in keys_of(layer, group):
            if key in known:
                is_attention = dialects.is_foreign(key) and ".to_" in key
                reading.unknown[key] = _OF_TODAY if is_attention else _NO_NAME
            else:
                reading.skip((key,), "no layer has this name")
    if reading.unknown and not reading.uses and not reading.skipped:
        reading.unsupported = next(iter(reading.unknown.values()))
    if not reading.weakness and dialects.METADATA in renamed.file.metadata:
        reading.weakness = dialects.LOST_ALPHA
    return reading


def _read_layer(
    reading: Reading, layer: str, group: Group, target: str, *, view: BaseView, algorithms: Sequence[Algorithm]
) -> None:
    algorithm = find_algorithm(group, algorithms)
    if algorithm is None:
        _note_strange(reading, layer, group)
        return
    bias = {name: group[name] for name in ("diff_b",) if name in group and name not in algorithm.names}
    rest = {name: tensor for name, tensor in group.items() if name not in bias}
    change = weight_change(algorithm, rest, _decompose)
    if adapters.has_row_magnitudes(group):
        reading.weakness = "it divides DoRA's magnitudes of output rows by lengths of the base model's rows"
    note_layer(reading, layer, rest, target, algorithm, change=change, view=view)
    for name, tensor in bias.items():  # beside any algorithm
        use = Use(target=f"{target}.bias", keys=keys_of(layer, (name,)), change=adapters.added(tensor))
        reading.uses.append(use)


def _note_strange(reading: Reading, layer: str, group: Group) -> None:
    """Note tensors that make no algorithm: one without its partners is asked for, and ends the loading."""
    for name, partners in _PARTNERS.items():
        if name in group and (missing := sorted(partners - group.keys())):
            reading.refused = f"{layer.replace(dialects.DOT, '.')} has {name}, and not {missing[0]}"
    known = find_algorithm(group, adapters.ALGORITHMS)
    noted = reading.unknown if known else reading.skipped
    noted |= dict.fromkeys(keys_of(layer, group), "no algorithm knows these tensors")


def _decompose(weight: Tensor, merged: Tensor, magnitudes: Tensor) -> Tensor:
    """Divide by lengths of W's rows, not of those of W + dW, where the magnitudes are of rows."""
    if magnitudes.shape[0] == merged.shape[0]:
        lengths: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
        return merged * (magnitudes / lengths)
    return formulas.decomposed(merged, magnitudes)


def _kronecker(weight: Tensor, group: Group) -> Tensor:
    if "lokr_t2" in group:
        raise NeverError(TUCKER_FAILS)
    return formulas.kronecker(group)


def _full(weight: Tensor, group: Group) -> Tensor:
    if group["diff"].shape != weight.shape:
        raise ValueError(f"shape mismatch: {list(group['diff'].shape)}, not {list(weight.shape)}")
    return group["diff"].float()


TUCKER_FAILS = "the Kronecker product of a Tucker factor fails"
ALGORITHMS = (
    adapters.LOW_RANK,
    adapters.HADAMARD,
    replace(adapters.KRONECKER, delta=_kronecker),
    adapters.BILINEAR,
    replace(adapters.NORM, needs=adapters.having("w_norm")),
    replace(adapters.FULL, delta=_full),
    adapters.BIAS,
)


def family(file: File) -> str:
    """Tell the family of a whole model by the form of its UNet."""
    names = file.tensors
    if "model.diffusion_model.label_emb.0.0.weight" in names:
        return "sdxl"
    projections = (tensor for name, tensor in names.items() if name.endswith(".1.proj_in.weight"))
    return "sd2" if any(tensor.dim() == 2 for tensor in projections) else "sd1"


def has_model(file: File) -> bool:
    """Tell whether enough keys are under a UNet's prefix for a model to be recognised."""
    return sum(name.startswith("model.diffusion_model.") for name in file.tensors) > _FEWEST


def note_zero_snr(reading: Reading, file: File, model: DiffusionModel) -> None:
    """Note a mark of zero terminal SNR that is not the model's, where there is no other mistake."""
    has_mark = ZERO_SNR_MARK in file.tensors
    if model.schedule.has_zero_snr != has_mark and not reading.mistake:
        reading.mistake = f"its schedule {'ends' if has_mark else 'does not end'} in pure noise"
