"""Adapters as they were trained: which tensors make an algorithm, and what they make of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sdtune.formats.consumers import formulas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView, Change, Group, Reading

ALPHA, DORA = "alpha", "dora_scale"
LORA = ("lora_up.weight", "lora_down.weight")


def unscaled(group: Group) -> None:
    """Give no rank: there is no scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A way to change a layer.

    Attributes:
        needs: Tells whether a layer's tensors are of this algorithm.
        names: The tensors it reads.
        delta: From W (float32) to dW, any shape of as many elements, without scale.
        rank: By which alpha is divided; None: there is no scale.
        bias: The tensor that is added to the bias; empty when there is none.
    """

    needs: Callable[[Group], bool]
    names: frozenset[str]
    delta: Callable[[Tensor, Group], Tensor]
    rank: Callable[[Group], int | None] = unscaled
    bias: str = ""


def having(*names: str) -> Callable[[Group], bool]:
    """Tell whether all of these tensors are there."""
    return lambda group: all(name in group for name in names)


def has_kronecker(group: Group) -> bool:
    """Tell whether both factors of a Kronecker product are there, whole or as two."""
    return all(f"lokr_w{n}" in group or {f"lokr_w{n}_a", f"lokr_w{n}_b"} <= group.keys() for n in (1, 2))


def is_old_bilinear(group: Group) -> bool:
    """Tell the layout of GLoRA before LyCORIS 3 by its shapes: a2 (in, r), a1 (r, in)."""
    a1, a2 = group["a1.weight"], group["a2.weight"]
    return a1.shape[0] == a2.shape[1] and a1.shape[0] < a1.shape[1]


def has_row_magnitudes(group: Group) -> bool:
    """Tell whether DoRA's magnitudes are of output rows, (out, 1, ...), and not of input columns, (1, in, ...)."""
    return DORA in group and group[DORA].shape[0] > 1


def rotate(weight: Tensor, group: Group) -> Tensor:
    """Compute R W, then gains of rows, minus W; alpha times the rows is the limit of |Q|."""
    limit = float(group[ALPHA]) * len(weight) if ALPHA in group else 0.0
    turned = formulas.rotated(weight, formulas.rotations(group["oft_blocks"].float(), limit))
    gain = group["rescale"].float() if "rescale" in group else 1.0
    return gain * turned - weight


def _bilinear_rank(group: Group) -> int:
    return min(group["a1.weight"].shape[:2])


LOW_RANK = Algorithm(
    needs=having(*LORA),
    names=frozenset({*LORA, "lora_mid.weight", ALPHA, DORA}),
    delta=lambda weight, group: formulas.low_rank(group),
    rank=lambda group: len(group["lora_down.weight"]),
)
HADAMARD = Algorithm(
    needs=having("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    names=frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", ALPHA, DORA}),
    delta=lambda weight, group: formulas.hadamard(group),
    rank=lambda group: len(group["hada_w1_b"]),
)
KRONECKER = Algorithm(
    needs=has_kronecker,
    names=frozenset({*(f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")), ALPHA, DORA}),
    delta=lambda weight, group: formulas.kronecker(group),
    rank=formulas.kronecker_rank,
)
GAINS = Algorithm(
    needs=having("weight", "on_input"),
    names=frozenset({"weight", "on_input"}),
    delta=formulas.gains,
)
FULL = Algorithm(
    needs=having("diff"),
    names=frozenset({"diff", "diff_b"}),
    delta=lambda weight, group: group["diff"].float(),
    bias="diff_b",
)
NORM = Algorithm(
    needs=having("w_norm", "b_norm"),
    names=frozenset({"w_norm", "b_norm"}),
    delta=lambda weight, group: group["w_norm"].float(),
    bias="b_norm",
)
BILINEAR = Algorithm(
    needs=having("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    names=frozenset({"a1.weight", "a2.weight", "b1.weight", "b2.weight", ALPHA}),
    delta=lambda weight, group: formulas.bilinear(weight, group, is_old=is_old_bilinear(group)),
    rank=_bilinear_rank,
)
ROTATION = Algorithm(
    needs=having("oft_blocks"),
    names=frozenset({"oft_blocks", "rescale", ALPHA}),
    delta=rotate,
)
BIAS = Algorithm(
    needs=having("diff_b"),
    names=frozenset({"diff_b"}),
    delta=lambda weight, group: torch.zeros_like(weight),
    bias="diff_b",
)
ALGORITHMS = (LOW_RANK, HADAMARD, GAINS, KRONECKER, FULL, NORM, BILINEAR, ROTATION, BIAS)


def scale(algorithm: Algorithm, group: Group) -> float:
    """Give alpha / rank; 1 without alpha, and where there is no rank."""
    rank = algorithm.rank(group)
    return float(group[ALPHA]) / rank if rank and ALPHA in group else 1.0


def weight_change(
    algorithm: Algorithm, group: Group, decompose: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
) -> Change:
    """Build the change of a layer's weight.

    Args:
        algorithm: What the tensors are.
        group: The tensors.
        decompose: From W, W + dW and the magnitudes to the weight (DoRA); None: as trained.
    """

    def change(weight: Tensor) -> Tensor:
        delta = algorithm.delta(weight, group).to(weight.device).reshape(weight.shape) * scale(algorithm, group)
        if DORA not in group or DORA not in algorithm.names:
            return weight + delta
        magnitudes = group[DORA].float()
        if decompose is None:
            return formulas.decomposed(weight + delta, magnitudes)
        return decompose(weight, weight + delta, magnitudes)

    return change


def added(tensor: Tensor) -> Change:
    """Build the change of a bias."""
    return lambda bias: bias + tensor.float().to(bias.device).reshape(bias.shape)


def find_algorithm(group: Group, algorithms: Sequence[Algorithm]) -> Algorithm | None:
    """Give the first algorithm that the tensors are of."""
    return next((algorithm for algorithm in algorithms if algorithm.needs(group)), None)


def keys_of(layer: str, names: Iterable[str]) -> tuple[str, ...]:
    """Give the keys of a layer's tensors."""
    return tuple(f"{layer}.{name}" if name else layer for name in names)


def note_layer(
    reading: Reading, layer: str, group: Group, target: str, algorithm: Algorithm, *, change: Change, view: BaseView
) -> None:
    """Note what an algorithm makes of a layer: its weight, its bias, and the tensors it does not read."""
    from sdtune.formats.consumers.reading import Use

    bias = {algorithm.bias} & group.keys()
    taken = [name for name in group if name in algorithm.names and name not in bias]
    reading.uses.append(Use(target=f"{target}.weight", keys=keys_of(layer, taken), change=change))
    for name in bias:
        if "bias" in view.layers[target]:
            use = Use(target=f"{target}.bias", keys=keys_of(layer, (name,)), change=added(group[name]))
            reading.uses.append(use)
        else:
            reading.skip(keys_of(layer, (name,)), "the layer has no bias")
    reading.skip(keys_of(layer, group.keys() - algorithm.names), "nothing reads a tensor of this name here")


def kohya_names(view: BaseView) -> dict[str, str]:
    """Map the names kohya-style files have for layers, to the layers; both CompVis's and diffusers' in SDXL's UNet."""
    from sdtune.formats.consumers.ldm import unet_layers

    names: dict[str, str] = {}
    ldm = unet_layers(view.of("unet")) if view.family == "sdxl" else {}
    for layer in view.of("unet"):
        for name in (layer, ldm.get(layer, layer)):
            names[f"lora_unet_{name.replace('.', '_')}"] = f"unet.{layer}"
    for part, prefix in text_prefixes(view.family).items():
        for layer in view.of(part):
            names[f"{prefix}_{layer.replace('.', '_')}"] = f"{part}.{layer}"
    return names


def text_prefixes(family: str) -> Mapping[str, str]:
    """Give kohya's prefix of each text encoder."""
    if family == "sdxl":
        return {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    return {"text_encoder": "lora_te"}
