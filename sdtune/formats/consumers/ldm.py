"""The base model as A1111, ComfyUI and kohya's SDXL scripts hold it: CompVis's modules, numbered by the counting rules.

Written from the rules of the original code, input block 3i + j + 1 and so on, apart from `sdtune.models.naming`, whose
tables this holds to account.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView

_IN_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
_IN_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_IN_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def as_it_is(tensor: Tensor) -> Tensor:
    """Take a tensor as it is."""
    return tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where a weight of the base model lies in a single file.

    Attributes:
        key: The key.
        shape: The shape of the tensor there, which programs insist on.
        pick: From that tensor to the weight.
    """

    key: str
    shape: tuple[int, ...]
    pick: Callable[[Tensor], Tensor] = as_it_is


def unet_layers(layers: Iterable[str]) -> dict[str, str]:
    """Map diffusers' names of a UNet's layers to CompVis's."""
    names = list(layers)
    stride = 1 + len({name.split(".")[3] for name in names if name.startswith("down_blocks.0.resnets.")})
    attended = {int(name.split(".")[1]) for name in names if name.startswith("up_blocks.") and ".attentions." in name}
    return {name: _unet_layer(name.split("."), stride, attended) for name in names}


def _unet_layer(parts: list[str], stride: int, attended: set[int]) -> str:
    match parts:
        case ["down_blocks" | "mid_block" | "up_blocks", *_]:
            return _unet_block(parts, stride, attended)
        case ["time_embedding", linear]:
            return f"time_embed.{_even(linear)}"
        case ["add_embedding", linear]:
            return f"label_emb.0.{_even(linear)}"
    return _ENDS[".".join(parts)]


def _unet_block(parts: list[str], stride: int, attended: set[int]) -> str:
    match parts:
        case ["down_blocks", i, "downsamplers", "0", "conv"]:
            return f"input_blocks.{stride * (int(i) + 1)}.0.op"
        case ["up_blocks", i, "upsamplers", "0", "conv"]:
            place = 2 if int(i) in attended else 1
            return f"output_blocks.{stride * (int(i) + 1) - 1}.{place}.conv"
        case ["down_blocks", i, kind, j, *rest]:
            return f"input_blocks.{stride * int(i) + int(j) + 1}.{_member(kind, rest)}"
        case ["up_blocks", i, kind, j, *rest]:
            return f"output_blocks.{stride * int(i) + int(j)}.{_member(kind, rest)}"
        case ["mid_block", "attentions", _, *rest]:
            return f"middle_block.1.{'.'.join(rest)}"
        case ["mid_block", "resnets", j, *rest]:
            return f"middle_block.{2 * int(j)}.{_IN_RESNET['.'.join(rest)]}"
    raise ValueError(f"no layer of a UNet: {'.'.join(parts)}")


def _even(linear: str) -> int:
    return 2 * (int(linear.removeprefix("linear_")) - 1)


def _member(kind: str, rest: list[str]) -> str:
    name = ".".join(rest)
    return f"1.{name}" if kind == "attentions" else f"0.{_IN_RESNET[name]}"


def vae_layers(layers: Iterable[str]) -> dict[str, str]:
    """Map diffusers' names of a VAE's layers to CompVis's."""
    names = list(layers)
    top = max((int(name.split(".")[2]) for name in names if ".up_blocks." in name), default=0)
    return {name: _vae_layer(name.split("."), top) for name in names}


def _vae_layer(parts: list[str], top: int) -> str:
    match parts:
        case [side, "down_blocks", i, "resnets", j, *rest]:
            return f"{side}.down.{i}.block.{j}.{_vae_resnet(rest)}"
        case [side, "up_blocks", i, "resnets", j, *rest]:
            return f"{side}.up.{top - int(i)}.block.{j}.{_vae_resnet(rest)}"
        case [side, "down_blocks", i, "downsamplers", "0", "conv"]:
            return f"{side}.down.{i}.downsample.conv"
        case [side, "up_blocks", i, "upsamplers", "0", "conv"]:
            return f"{side}.up.{top - int(i)}.upsample.conv"
        case [side, "mid_block", "resnets", j, *rest]:
            return f"{side}.mid.block_{int(j) + 1}.{_vae_resnet(rest)}"
        case [side, "mid_block", "attentions", "0", *rest]:
            return f"{side}.mid.attn_1.{_IN_VAE_ATTENTION['.'.join(rest)]}"
        case [side, "conv_norm_out"]:
            return f"{side}.norm_out"
    return ".".join(parts)


def _vae_resnet(rest: list[str]) -> str:
    name = ".".join(rest)
    return "nin_shortcut" if name == "conv_shortcut" else name


def single_file(view: BaseView) -> dict[str, Slot]:
    """Map each weight of the base model to its place in a single file."""
    slots = {}
    unet, vae = unet_layers(view.of("unet")), vae_layers(view.of("vae"))
    for target, shape in view.shapes.items():
        part, _, rest = target.partition(".")
        layer, _, leaf = rest.rpartition(".")
        if part == "unet":
            slots[target] = Slot(key=f"model.diffusion_model.{unet[layer]}.{leaf}", shape=shape)
        elif part == "vae":
            slots[target] = _vae_slot(f"first_stage_model.{vae[layer]}.{leaf}", shape)
        else:
            prefix = _text_prefix(view.family, part)
            is_open = prefix.endswith("model.")
            slots[target] = _open_clip_slot(prefix, rest, shape) if is_open else Slot(key=prefix + rest, shape=shape)
    return slots


def _text_prefix(family: str, part: str) -> str:
    """Give the prefix of a text encoder; OpenCLIP's ends with `model.`."""
    if family == "sdxl":
        return "conditioner.embedders.0.transformer." if part == "text_encoder" else "conditioner.embedders.1.model."
    return "cond_stage_model.model." if family == "sd2" else "cond_stage_model.transformer."


def _vae_slot(key: str, shape: tuple[int, ...]) -> Slot:
    if ".attn_1." in key and len(shape) == 2:
        return Slot(key=key, shape=(*shape, 1, 1), pick=lambda tensor: tensor.flatten(1))
    return Slot(key=key, shape=shape)


def _open_clip_slot(prefix: str, name: str, shape: tuple[int, ...]) -> Slot:
    match name.removeprefix("text_model.").split("."):
        case ["embeddings", "token_embedding", leaf]:
            return Slot(key=f"{prefix}token_embedding.{leaf}", shape=shape)
        case ["embeddings", "position_embedding", "weight"]:
            return Slot(key=f"{prefix}positional_embedding", shape=shape)
        case ["final_layer_norm", leaf]:
            return Slot(key=f"{prefix}ln_final.{leaf}", shape=shape)
        case ["text_projection", "weight"]:
            return Slot(key=f"{prefix}text_projection", shape=shape[::-1], pick=lambda tensor: tensor.t())
        case ["encoder", "layers", number, *rest, leaf]:
            return _block_slot(f"{prefix}transformer.resblocks.{number}.", ".".join(rest), leaf, shape)
    raise ValueError(f"no weight of a text encoder: {name}")


def _block_slot(block: str, layer: str, leaf: str, shape: tuple[int, ...]) -> Slot:
    if layer in _IN_OPEN_CLIP:
        return Slot(key=f"{block}{_IN_OPEN_CLIP[layer]}.{leaf}", shape=shape)
    third = ("q_proj", "k_proj", "v_proj").index(layer.rpartition(".")[2])
    rows = shape[0]
    return Slot(
        key=f"{block}attn.in_proj_{leaf}",
        shape=(3 * rows, *shape[1:]),
        pick=lambda tensor: tensor[third * rows : (third + 1) * rows],
    )
