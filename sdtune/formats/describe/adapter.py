"""An adapter in numbers: ranks, scales, and which layers of which parts it acts on."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from sdtune.formats.adapters import split_modules

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune.formats.adapters import AdapterModule
    from sdtune.formats.contents import Contents
    from sdtune.formats.facts import FileFacts

PART_ORDER = ("unet", "text_encoder", "text_encoder_2", "unknown")
LAYER_ORDER = ("attention", "feed_forward", "projection", "resnet", "sampler", "embedding", "norm", "other")
_BUNDLED = "bundle_emb."
_PEFT_KEY = "lora_adapter_metadata"


def describe_adapter(facts: FileFacts) -> dict[str, Any]:
    """Give the section `adapter` of the document."""
    modules, strays = split_modules(facts.tensors)
    alphas = read_alphas(modules, facts.contents)
    scales = read_scales(modules, alphas, facts.metadata)
    doras = [module for module in modules if "dora_scale" in module.tensors]
    return {
        "dialect": facts.dialect,
        "algorithms": dict(Counter(module.algorithm for module in modules).most_common()),
        "modules": len(modules),
        "parts": {
            part: _describe_part([m for m in modules if (m.component or "unknown") == part], alphas, scales)
            for part in PART_ORDER
            if any((module.component or "unknown") == part for module in modules)
        },
        "rank": spread(module.rank for module in modules),
        "alpha": spread(alphas.get(id(module)) for module in modules),
        "scale": spread(scales.get(id(module)) for module in modules),
        "without_alpha": sum(id(module) not in alphas for module in modules if module.rank is not None),
        "conv3_modules": sum(module.is_conv3 for module in modules),
        "tucker_modules": sum(module.is_tucker for module in modules),
        "dora_modules": len(doras),
        "dora_axis": _common(dora_axis(module) for module in doras),
        "bundled_embeddings": sorted({name.split(".")[1] for name in strays if name.startswith(_BUNDLED)}),
        "strays": [name for name in strays if not name.startswith(_BUNDLED)],
    }


def read_alphas(modules: Sequence[AdapterModule], contents: Contents) -> dict[int, float]:
    """Read the alphas there are: identity of the module to alpha."""
    names = {module.names["alpha"]: module for module in modules if "alpha" in module.names}
    return {id(names[name]): value for name, value in contents.read_scalars(names).items()}


def read_scales(
    modules: Sequence[AdapterModule], alphas: Mapping[int, float], metadata: Mapping[str, str]
) -> dict[int, float]:
    """Tell by what each product of factors is multiplied: identity of the module to scale.

    A missing alpha means 1; HCP's alpha is the scale; PEFT keeps rank and alpha of each part in the metadata.
    """
    peft = _read_peft(metadata)
    return {
        id(module): _scale(module, alphas.get(id(module)), peft)
        for module in modules
        if module.rank is not None and module.algorithm not in {"diag-oft", "boft"}
    }


def _scale(module: AdapterModule, alpha: float | None, peft: Mapping[str, Any]) -> float:
    if module.dialect == "hcp":
        return 1.0 if alpha is None else alpha
    if module.dialect == "diffusers" and alpha is None:
        stated = peft.get(f"{module.component}.lora_alpha")
        alpha = float(stated) if isinstance(stated, int | float) else None
    return 1.0 if alpha is None else alpha / (module.rank or 1)


def _read_peft(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        stated = json.loads(metadata.get(_PEFT_KEY, "{}"))
    except ValueError:
        return {}
    return stated if isinstance(stated, dict) else {}


def dora_axis(module: AdapterModule) -> str:
    """Tell over what the norm of DoRA is kept: `input` for (1, in, ...), `output` for (out, 1, ...) or (out)."""
    shape = module.tensors["dora_scale"].shape
    return "input" if len(shape) > 1 and shape[0] == 1 else "output"


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Give the smallest, most frequent and largest of the finite numbers; None when there are none."""
    numbers = Counter(_tidy(value) for value in values if value is not None and math.isfinite(value))
    if not numbers:
        return None
    return {"min": min(numbers), "most": numbers.most_common(1)[0][0], "max": max(numbers)}


def _describe_part(
    modules: Sequence[AdapterModule], alphas: Mapping[int, float], scales: Mapping[int, float]
) -> dict[str, Any]:
    layers: dict[str, list[AdapterModule]] = {}
    for module in sorted(modules, key=lambda module: LAYER_ORDER.index(module.layer)):
        layers.setdefault(f"{module.layer}_conv3" if module.is_conv3 else module.layer, []).append(module)
    return {
        "modules": len(modules),
        "blocks": dict(Counter(module.block or "ends" for module in modules)),
        "layers": {
            layer: {
                "modules": len(found),
                "rank": spread(module.rank for module in found),
                "alpha": spread(alphas.get(id(module)) for module in found),
                "scale": spread(scales.get(id(module)) for module in found),
            }
            for layer, found in layers.items()
        },
    }


def _common(values: Iterable[str]) -> str | None:
    found = set(values)
    return found.pop() if len(found) == 1 else ("mixed" if found else None)


def _tidy(value: float) -> float:
    """Give whole numbers as such, others to six digits: a bf16 alpha has no more."""
    return int(value) if float(value).is_integer() else float(f"{value:.6g}")
