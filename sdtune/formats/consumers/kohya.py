"""kohya-ss's sd-scripts: `networks/lora.py`, `library/model_util.py`, `library/sdxl_model_util.py`.

It builds the layers its `lora_down` keys name among its own targets, and fails where a tensor has another shape.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sdtune.errors import ModelError
from sdtune.formats.consumers import dialects, embeddings
from sdtune.formats.consumers.adapters import ALGORITHMS, LOW_RANK, find_algorithm, keys_of, text_prefixes
from sdtune.formats.consumers.checkpoints import read_checkpoint
from sdtune.formats.consumers.ldm import single_file, unet_layers
from sdtune.formats.consumers.reading import BaseView, File, Reading, Use, unpickle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.formats.consumers.reading import Change, Group
    from sdtune.models.base import DiffusionModel

_UNET = re.compile(
    r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(?:attentions|resnets|downsamplers|upsamplers)\.\d+\.(?!.*norm).+"
)
_TEXT = re.compile(r"text_model\.encoder\.layers\.\d+\.(?:self_attn\.(?:q|k|v|out)_proj|mlp\.fc[12])")
_OUTSIDE = "it trains no layer of this name"


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file as kohya's scripts do."""
    match file.kind:
        case "lora":
            return read_adapters(file, view)
        case "checkpoint":
            return _read_checkpoint(file, view)
        case "embedding":
            return _read_embedding(file, view)
        case "hypernetwork":
            return Reading(unsupported="its training scripts have no hypernetworks")


def read_adapters(file: File, view: BaseView) -> Reading:
    """Read an adapter's file."""
    if reason := dialects.without_effect(file):
        return Reading(unsupported=reason)
    reading, names, layers = Reading(), _names(file, view), set(_all_names(view))
    if not any("lora_down.weight" in group for group in file.groups.values()):
        return Reading(unsupported="it knows no algorithm but LoRA")
    for layer, group in file.groups.items():
        keys = keys_of(layer, group)
        if layer not in names:
            reason = _OUTSIDE if layer in layers else "no layer has this name"
            (reading.unknown if layer in layers else reading.skipped).update(dict.fromkeys(keys, reason))
        elif not LOW_RANK.needs(group):
            known = find_algorithm(group, ALGORITHMS) is not None
            reason = "it knows no algorithm but LoRA" if known else "a LoRA needs both lora_up and lora_down"
            (reading.unknown if known else reading.skipped).update(dict.fromkeys(keys, reason))
        else:
            _read_layer(reading, layer, group, names[layer], view)
    return reading


def _read_layer(reading: Reading, layer: str, group: Group, target: str, view: BaseView) -> None:
    down, up = group["lora_down.weight"], group["lora_up.weight"]
    shape = view.shapes[f"{target}.weight"]
    if "lora_mid.weight" in group:
        reading.unsupported = "it knows no LoRA of three factors (Tucker)"
        return
    wanted = (len(down), *shape[1:]), (shape[0], len(down), *[1] * (len(shape) - 2))
    for factor, right in zip((down, up), wanted, strict=True):
        if tuple(factor.shape) != right:
            reading.refused = f"size mismatch for {layer}: {list(factor.shape)}, not {list(right)}"
            return
    taken = {name for name in group if name in {"lora_up.weight", "lora_down.weight", "alpha"}}
    reading.uses.append(Use(target=f"{target}.weight", keys=keys_of(layer, taken), change=_change(group)))
    rest = group.keys() - taken
    reading.unknown |= dict.fromkeys(keys_of(layer, rest & {"dora_scale", "diff_b"}), "it ignores such tensors")
    reading.skip(keys_of(layer, rest - {"dora_scale", "diff_b"}), "it ignores such tensors")


def _change(group: Group) -> Change:
    down, up = group["lora_down.weight"].float(), group["lora_up.weight"].float()
    alpha = float(group["alpha"]) if "alpha" in group else 0.0
    scale = (alpha or len(down)) / len(down)  # an alpha of 0 counts as none
    return lambda weight: weight + scale * (up.flatten(1) @ down.flatten(1)).to(weight.device).reshape(weight.shape)


def _names(file: File, view: BaseView) -> dict[str, str]:
    """Map the names of its own layers to ours; SDXL's diffusers names are converted if some block is named so."""
    every = _all_names(view)
    own = {name: layer for name, layer in every.items() if _is_target(layer)}
    if view.family == "sdxl" and any("down_blocks" in key or "up_blocks" in key for key in file.groups):
        for layer in view.of("unet"):
            if _UNET.fullmatch(layer):
                own[f"lora_unet_{layer.replace('.', '_')}"] = f"unet.{layer}"
    return own


def _all_names(view: BaseView) -> dict[str, str]:
    names = {}
    ldm = unet_layers(view.of("unet")) if view.family == "sdxl" else {}
    for layer in view.of("unet"):
        names[f"lora_unet_{ldm.get(layer, layer).replace('.', '_')}"] = f"unet.{layer}"
    for part, prefix in text_prefixes(view.family).items():
        for layer in view.of(part):
            names[f"{prefix}_{layer.replace('.', '_')}"] = f"{part}.{layer}"
    return names


def _is_target(layer: str) -> bool:
    part, _, name = layer.partition(".")
    return bool((_UNET if part == "unet" else _TEXT).fullmatch(name))


def _read_embedding(file: File, view: BaseView) -> Reading:
    if file.is_picture:
        return Reading(unsupported=embeddings.NO_PICTURES)
    try:
        content: Mapping[Any, Any] = unpickle(file.path) if file.is_pickled else file.tensors
    except ModelError as error:
        return Reading(refused=str(error))
    reading, values = Reading(), embeddings.tensors_in(content)
    if view.family == "sdxl":
        return embeddings.read_vectors(file, view, content)
    first = next(iter(values.values()), None)
    if type(first) is not Tensor:
        return Reading(refused=f"its first entry is a {type(first).__name__}, not a tensor")
    key = next(iter(values))
    reading.skip(map(str, values.keys() - {key}), "only the first tensor is read")
    return embeddings.take_vectors(reading, file, view, {"clip_l": first}, used={key: first})


def _read_checkpoint(file: File, view: BaseView) -> Reading:
    """Read a single file: names of the text encoder are strict, a VAE's attention may be flat."""
    reading = read_checkpoint(file, view, takes_flat_attention=True)
    reading.predicts = "what the flag --v_parameterization says"
    if view.family == "sdxl":
        projection = single_file(view)["text_encoder_2.text_projection.weight"].key
        reading.unknown[projection] = "it reads this matrix transposed, as in every SDXL model"
    strict = [key for key in reading.skipped if key.startswith(("cond_stage_model.", "conditioner."))]
    if strict and not reading.refused:
        reading.refused = f"unexpected key: {strict[0]}"
    return reading
