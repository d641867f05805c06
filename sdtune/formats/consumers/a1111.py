"""AUTOMATIC1111's webui 1.10.1: `extensions-builtin/Lora`, `modules/textual_inversion`, `safe.py`, `sd_models.py`.

What it passes over it passes over silently.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sdtune.errors import ModelError
from sdtune.formats.consumers import adapters, contexts, dialects, embeddings, formulas
from sdtune.formats.consumers.adapters import find_algorithm, keys_of, note_layer, weight_change
from sdtune.formats.consumers.applying import applied
from sdtune.formats.consumers.checkpoints import note_prediction, read_checkpoint
from sdtune.formats.consumers.ldm import unet_layers
from sdtune.formats.consumers.reading import BaseView, File, NeverError, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from sdtune.formats.consumers.adapters import Algorithm
    from sdtune.formats.consumers.reading import Group
    from sdtune.models.base import DiffusionModel, Prediction

_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_FUSED = re.compile(r"(?P<attention>.*self_attn)\.(?P<side>q|k|v|out)_proj")
_PARTS = frozenset({"q", "k", "v", "out"})
_YAML_V = re.compile(r"""parameterization:\s*["']?v\b|VScaling""")


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file as A1111 does."""
    match file.kind:
        case "lora":
            return read_adapters(file, view)
        case "checkpoint":
            return _read_checkpoint(file, view, model)
        case "embedding":
            content, refused = _load(file)
            return Reading(refused=refused) if refused else embeddings.read_vectors(file, view, content)
        case "hypernetwork":
            content, refused = _load(file)
            if refused:
                return Reading(refused=refused)
            return contexts.read_networks(content, view, contexts.webui_network)


def _load(file: File) -> tuple[Mapping[Any, Any], str]:
    if not file.is_pickled:
        try:
            return embeddings.content_of(file), ""
        except ModelError as error:
            return {}, str(error)
    from sdtune.formats.consumers.pickles import load_like_webui

    try:
        content = load_like_webui(file.path)
    except ValueError as error:
        return {}, str(error)
    return (content, "") if isinstance(content, dict) else ({}, "it holds no dictionary")


def _read_checkpoint(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    names = file.tensors.keys()
    found = "sd1"
    if "conditioner.embedders.1.model.ln_final.weight" in names:
        found = "sdxl"
    elif "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight" in names:
        found = "sd2"
    if found != view.family:
        return Reading(refused=f"it is taken for a model of the family {found}")
    reading = read_checkpoint(file, view)
    if not reading.refused:
        note_prediction(reading, model, *_prediction(file, reading, model))
    return reading


def _prediction(file: File, reading: Reading, model: DiffusionModel) -> tuple[Prediction, str]:
    """Follow the `.yaml` beside the file; without one SD2 is asked, and all others predict noise."""
    config = file.path.with_suffix(".yaml")
    if config.is_file():
        is_v = _YAML_V.search(config.read_text(encoding="utf-8", errors="replace"))
        return "v_prediction" if is_v else "epsilon", config.name
    if model.family != "sd2":
        return "epsilon", f"there is no {config.name}"
    if file.is_hollow:
        return model.prediction, "the model's answer to constants will tell"
    return ("v_prediction" if _changes_constants(reading, model) else "epsilon"), "the model's answer to constants"


@torch.no_grad()
def _changes_constants(reading: Reading, model: DiffusionModel) -> bool:
    """Tell v by `is_using_v_parameterization_for_sd2`: at the last step it lowers latents of 0.5 by more than 1."""
    unet: Any = model.part("unet")
    like: Tensor = next(unet.parameters())
    latents = like.new_full((1, model.latent_channels, 8, 8), 0.5)
    context = like.new_zeros(1, 2, unet.config.cross_attention_dim)
    with applied(model, [reading]):
        answer = unet(latents, 999, encoder_hidden_states=context).sample
    return float((answer - latents).mean()) < -1


def read_adapters(file: File, view: BaseView) -> Reading:
    """Read an adapter's file: names by `convert_diffusers_name_to_compvis`, then each algorithm's own rules."""
    if reason := dialects.without_effect(file):
        return Reading(unsupported=reason)
    reading, layers = Reading(), dict(_layers(view))
    for layer, group in file.groups.items():
        if layer.startswith("bundle_emb"):
            reading.used |= set(keys_of(layer, group))
            continue
        target = _find(layer, view.family, layers)
        if target is None:
            reading.skip(keys_of(layer, group), "no layer has this name")
            continue
        algorithm = find_algorithm(group, _ALGORITHMS)
        if algorithm is None and find_algorithm(group, adapters.ALGORITHMS):
            return Reading(unsupported=f"it has no algorithm for {', '.join(sorted(group))} ({layer})")
        if algorithm is None:
            return Reading(refused=f"{layer} holds {', '.join(sorted(group))}, which no algorithm accepts")
        reading.weakness = reading.weakness or _weakness(algorithm, group)
        change = weight_change(algorithm, group, _decompose)
        note_layer(reading, layer, group, target, algorithm, change=change, view=view)
    _apply_fused(reading, view)
    family = _family_in_list(file.metadata)
    if family not in ("", view.family):
        reading.mistake = f"its list hides it: by its metadata it is for {family}; only its name in a prompt works"
    return reading


def _family_in_list(metadata: Mapping[str, str]) -> str:
    """Tell for which models a file is listed: by two keys, and SD1 by any other; empty: for all."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "sdxl"
    if metadata.get("ss_v2") == "True":
        return "sd2"
    return "sd1" if metadata else ""


def _weakness(algorithm: Algorithm, group: Group) -> str:
    if adapters.has_row_magnitudes(group):
        return "it takes DoRA's magnitudes of output rows for those of input columns"
    has_scale = "a1.weight" in algorithm.names and adapters.scale(adapters.BILINEAR, group) != 1
    return "it passes over the alpha of GLoRA" if has_scale else ""


def _layers(view: BaseView) -> Iterator[tuple[str, str]]:
    """Map A1111's names of its own modules to layers."""
    for layer, ldm in unet_layers(view.of("unet")).items():
        yield f"diffusion_model_{ldm.replace('.', '_')}", f"unet.{layer}"
    is_xl = view.family == "sdxl"
    for part in ("text_encoder", "text_encoder_2"):
        number = {"text_encoder": "0_", "text_encoder_2": "1_"}[part] if is_xl else ""
        for layer in view.of(part):
            if _is_open_clip(view.family, part):
                if match := re.fullmatch(r"text_model\.encoder\.layers\.(\d+)\.(.+)", layer):
                    yield f"{number}model_transformer_resblocks_{match[1]}_{_open_clip(match[2])}", f"{part}.{layer}"
            else:
                yield f"{number}transformer_{layer.replace('.', '_')}", f"{part}.{layer}"


def _is_open_clip(family: str, part: str) -> bool:
    return family == "sd2" or (family == "sdxl" and part == "text_encoder_2")


def _open_clip(layer: str) -> str:
    names = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp_c_fc", "mlp.fc2": "mlp_c_proj"}
    return names.get(layer, layer.replace("self_attn.", "attn_").replace(".", "_"))


def _find(name: str, family: str, layers: Mapping[str, str]) -> str | None:
    """Find the layer a name stands for: converted from diffusers' form first, then with other prefixes."""
    tries = [_converted(name, is_sd2=family == "sd2"), name.replace("lora_unet", "diffusion_model")]
    for prefix in ("lora_te1_text_model", "lora_te_text_model"):
        tries += [name.replace(prefix, f"{place}transformer_text_model") for place in ("0_", "")]
    return next((layers[found] for found in tries if found in layers), None)


def _converted(name: str, *, is_sd2: bool) -> str:
    kinds = r"(attentions|resnets)_(\d+)_(.+)"
    if match := re.fullmatch(rf"lora_unet_(down|up)_blocks_(\d+)_{kinds}", name):
        side, block, kind, index, rest = match.groups()
        number = 3 * int(block) + int(index) + (side == "down")
        return f"diffusion_model_{_SIDES[side]}_blocks_{number}_{int(kind == 'attentions')}_{_inner(kind, rest)}"
    if match := re.fullmatch(rf"lora_unet_mid_block_{kinds}", name):
        kind, index, rest = match.groups()
        number = 1 if kind == "attentions" else 2 * int(index)
        return f"diffusion_model_middle_block_{number}_{_inner(kind, rest)}"
    if match := re.fullmatch(r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv", name):
        return f"diffusion_model_input_blocks_{3 + 3 * int(match[1])}_0_op"
    if match := re.fullmatch(r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv", name):
        # counted for SD1, whose first upsampler stands behind no attention; in SDXL it does
        return f"diffusion_model_output_blocks_{2 + 3 * int(match[1])}_{2 if int(match[1]) else 1}_conv"
    if match := re.fullmatch(r"lora_unet_time_embedding_linear_(\d+)", name):
        return f"diffusion_model_time_embed_{2 * int(match[1]) - 2}"
    if match := re.fullmatch(r"lora_te(2?)_text_model_encoder_layers_(\d+)_(.+)", name):
        return _converted_text(*match.groups(), is_sd2=is_sd2)
    ends = {"lora_unet_conv_in": "diffusion_model_input_blocks_0_0", "lora_unet_conv_out": "diffusion_model_out_2"}
    return ends.get(name, name)


_SIDES = {"down": "input", "up": "output"}


def _inner(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest


def _converted_text(second: str, number: str, rest: str, *, is_sd2: bool) -> str:
    if not second and not is_sd2:
        return f"transformer_text_model_encoder_layers_{number}_{rest}"
    for old, new in (("mlp_fc1", "mlp_c_fc"), ("mlp_fc2", "mlp_c_proj"), ("self_attn", "attn")):
        rest = rest.replace(old, new)
    return f"{'1_' if second else ''}model_transformer_resblocks_{number}_{rest}"


def _decompose(weight: Tensor, merged: Tensor, magnitudes: Tensor) -> Tensor:
    """Take lengths of input columns, whatever the magnitudes are of."""
    others = tuple(dim for dim in range(merged.dim()) if dim != 1)
    lengths: Tensor = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    return merged * (magnitudes / lengths)


def _gains(weight: Tensor, group: Group) -> Tensor:
    if weight.dim() == 4 and not bool(group["on_input"].item()):
        raise NeverError("gains of a convolution's output channels cannot be broadcast")
    return formulas.gains(weight, group)


def _bilinear(weight: Tensor, group: Group) -> Tensor:
    if not adapters.is_old_bilinear(group):
        raise NeverError("it knows GLoRA's layout before LyCORIS 3 only")
    return formulas.bilinear(weight, group, is_old=True)


_ALGORITHMS = (
    adapters.LOW_RANK,
    adapters.HADAMARD,
    replace(adapters.GAINS, delta=_gains),
    adapters.KRONECKER,
    adapters.FULL,
    adapters.NORM,
    replace(
        adapters.BILINEAR,
        needs=adapters.having("a1.weight", "a2.weight", "b1.weight", "b2.weight", "alpha"),
        delta=_bilinear,
        rank=lambda group: None,
    ),
    adapters.ROTATION,
)


def _apply_fused(reading: Reading, view: BaseView) -> None:
    """Follow OpenCLIP's fused attention: all of q, k, v and out or nothing, and no biases of q, k and v."""
    found: dict[str, set[str]] = defaultdict(set)
    fused = {}
    for use in reading.uses:
        layer, _, leaf = use.target.rpartition(".")
        match = _FUSED.fullmatch(layer)
        if match and _is_open_clip(view.family, layer.partition(".")[0]):
            fused[use.target] = match
            if leaf == "weight":
                found[match["attention"]].add(match["side"])
    kept = []
    for use in reading.uses:
        place = fused.get(use.target)
        if place is None or (found[place["attention"]] == _PARTS and not _is_lost(use.target, place["side"])):
            kept.append(use)
        elif found[place["attention"]] == _PARTS:
            reading.unknown |= dict.fromkeys(use.keys, "biases of fused attention are not changed")
        else:
            lacking = ", ".join(sorted(_PARTS - found[place["attention"]]))
            reason = f"fused attention needs q, k, v and out together; not there: {lacking}"
            reading.unknown |= dict.fromkeys(use.keys, reason)
    reading.uses = kept


def _is_lost(target: str, side: str) -> bool:
    return target.endswith(".bias") and side != "out"
