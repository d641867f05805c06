"""Reading a LoRA of any dialect: layers under one kind of name, with one meaning of alpha."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from sdtune.errors import ModelError
from sdtune.formats import hcp, peft
from sdtune.formats.adapters import AdapterModule, split_modules
from sdtune.formats.layer_names import layer_path
from sdtune.formats.low_rank import LowRank, merge_middle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sdtune.formats.facts import Family, FileFacts

DOWN, UP, MIDDLE, ALPHA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"
_TITLES = {
    "loha": "LoHa",
    "lokr": "LoKr",
    "glora": "GLoRA",
    "ia3": "(IA)3",
    "diag-oft": "OFT",
    "boft": "BOFT",
    "full": "full-weight",
    "norms": "norm",
}
_AVERAGES = ("lora_ema:", "base_ema:")


def read_layers(facts: FileFacts, family: Family | None) -> list[LowRank]:
    """Read the layers of a LoRA.

    Of HCP-Diffusion's files the running average (`lora_ema:`) is left out; the middle factors of convolutions (Tucker)
    are multiplied in.

    Raises:
        ModelError: There are layers of another kind, of another model, or incomplete ones.
    """
    modules, strays = split_modules(facts.tensors)
    modules = [module for module in modules if not _is_average(module)]
    strays = [name for name in strays if not name.startswith(_AVERAGES)]
    _check(modules, strays, str(facts.path))
    settings = peft.read_settings(facts.metadata, str(facts.path))
    return [_read(facts, module, settings, family) for module in modules]


def _is_average(module: AdapterModule) -> bool:
    return any(name.startswith(_AVERAGES) for name in module.names.values())


def _check(modules: Sequence[AdapterModule], strays: Sequence[str], where: str) -> None:
    kinds = Counter(kind for module in modules if (kind := _foreign_kind(module)))
    if kinds:
        told = " and ".join(f"{count} {kind} layer{'s' * (count > 1)}" for kind, count in kinds.most_common())
        raise ModelError(
            f"it holds {told}, which have no form in the other dialect",
            where=where,
            hint="only plain LoRA and LoCon layers can be converted",
        )
    if strays:
        raise ModelError(f"it holds {len(strays)} tensors that belong to no LoRA, e.g. {strays[0]}", where=where)


def _foreign_kind(module: AdapterModule) -> str:
    """Name what a layer is beyond a LoRA; empty for a LoRA."""
    if module.algorithm != "lora":
        return _TITLES.get(module.algorithm, module.algorithm)
    if "dora_scale" in module.tensors:
        return "DoRA"
    return "biased" if module.tensors.keys() - {DOWN, UP, MIDDLE, ALPHA} else ""


def _read(facts: FileFacts, module: AdapterModule, settings: peft.Settings, family: Family | None) -> LowRank:
    example, where = next(iter(module.names.values())), str(facts.path)
    missing = {DOWN, UP} - module.names.keys()
    if missing:
        raise ModelError(f"{example} has no counterpart {missing.pop()}", where=where)
    try:
        path = layer_path(module.component or "", module.name, family)
    except KeyError:
        raise ModelError(f"{example} is of no layer of SD1, SD2 or SDXL", where=where) from None
    if not _fits({leaf: tensor.shape for leaf, tensor in module.tensors.items()}):
        raise ModelError(f"the shapes of {example} and its counterpart do not fit", where=where)
    if module.dialect == "hcp" and ALPHA not in module.names:
        raise ModelError(f"{example} has no alpha, which HCP-Diffusion always writes", where=where)
    found = {leaf: facts.contents.read(name) for leaf, name in module.names.items()}
    down = merge_middle(found[MIDDLE], found[DOWN]) if MIDDLE in found else found[DOWN]
    if ALPHA not in found:
        alpha = peft.find_alpha(path, len(down), settings)
    else:
        stored = float(found[ALPHA])
        alpha = hcp.whole_alpha(stored, len(down)) if module.dialect == "hcp" else stored
    return LowRank(path=path, down=down, up=found[UP], alpha=alpha)


def _fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether up @ down can be computed: both 2-D or both 4-D, of one rank; and alpha is one number."""
    down, up = shapes[DOWN], shapes[UP]
    is_product = len(down) in (2, 4) and len(down) == len(up) and up[1] == down[0] > 0
    return is_product and math.prod(shapes.get(ALPHA, ())) == 1
