"""What only the values tell: numbers that are not finite, the largest ones, and how strong an adapter is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sdtune.formats.adapters import split_modules
from sdtune.formats.contents import TORCH_NAMES
from sdtune.formats.describe.adapter import read_alphas, read_scales

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from sdtune.formats.adapters import AdapterModule
    from sdtune.formats.facts import FileFacts

_MOST_NAMED = 5


def describe_weights(facts: FileFacts) -> dict[str, Any]:
    """Read every tensor, one at a time, and give the section `weights` of the document.

    A tensor of one number, such as an alpha, is no candidate for the largest.
    """
    bad: dict[str, int] = {}
    largest, largest_name, zeros, unread = 0.0, "", 0, []
    for name, tensor in facts.tensors.items():
        if tensor.dtype not in TORCH_NAMES:
            unread.append(name)
            continue
        values = facts.contents.read(name).float()
        if count := int((~values.isfinite()).sum()):
            bad[name] = count
        elif values.numel() > 1 and (top := float(values.abs().max())) > largest:
            largest, largest_name = top, name
        zeros += int(values.numel() > 0 and not values.any())
    return {
        "not_finite": {"tensors": len(bad), "elements": sum(bad.values()), "names": list(bad)[:_MOST_NAMED]},
        "largest": {"value": float(f"{largest:.6g}"), "tensor": largest_name},
        "zero_tensors": zeros,
        "unread_tensors": len(unread),
        "strength": _describe_strength(facts) if facts.dialect else None,
    }


def list_not_finite(facts: FileFacts) -> list[str]:
    """Name the tensors that hold NaN or infinity, reading one at a time."""
    known = [name for name, tensor in facts.tensors.items() if tensor.dtype in TORCH_NAMES]
    return [name for name in known if not facts.contents.read(name).float().isfinite().all()]


def _describe_strength(facts: FileFacts) -> dict[str, Any]:
    """Give the norm of each module's change of its layer's weight, where the file alone tells it."""
    modules, _ = split_modules(facts.tensors)
    scales = read_scales(modules, read_alphas(modules, facts.contents), facts.metadata)
    norms = {
        module.name: norm
        for module in modules
        if (norm := change_norm(module, facts, scales.get(id(module), 1.0))) is not None and math.isfinite(norm)
    }
    if not norms:
        return {"modules": 0, "mean": None, "largest": None}
    name = max(norms, key=norms.__getitem__)
    return {
        "modules": len(norms),
        "mean": float(f"{sum(norms.values()) / len(norms):.6g}"),
        "largest": {"value": float(f"{norms[name]:.6g}"), "module": name},
    }


def change_norm(module: AdapterModule, facts: FileFacts, scale: float) -> float | None:
    """Give the Frobenius norm of the change of a layer's weight; None where that depends on the base model.

    Products of factors are not multiplied out: |B A|^2 = <B^T B, A A^T>, and |A (x) B| = |A| |B|.
    """
    norm = _NORMS.get(module.algorithm)
    if norm is None or "dora_scale" in module.tensors:
        return None
    tensors = {leaf: facts.contents.read(name).double() for leaf, name in module.names.items() if leaf != "alpha"}
    try:
        found = norm(tensors)
    except (KeyError, IndexError, RuntimeError):  # a factor is missing, or does not fit
        return None
    return found * abs(_applied_scale(module, scale))


def _applied_scale(module: AdapterModule, scale: float) -> float:
    return 1.0 if module.rank is None else scale


def _low_rank(tensors: Mapping[str, Tensor]) -> float:
    down, up = tensors["lora_down.weight"].flatten(1), tensors["lora_up.weight"].flatten(1)
    if "lora_mid.weight" in tensors:
        return _tucker_norm(tensors["lora_mid.weight"], up.T, down)
    return math.sqrt(max(0.0, float(((up.T @ up) * (down @ down.T)).sum())))


def _hadamard(tensors: Mapping[str, Tensor]) -> float:
    if "hada_t1" in tensors:
        first, second = (
            _tucker(tensors[f"hada_t{n}"], tensors[f"hada_w{n}_a"], tensors[f"hada_w{n}_b"]) for n in (1, 2)
        )
    else:
        first, second = (tensors[f"hada_w{n}_a"] @ tensors[f"hada_w{n}_b"] for n in (1, 2))
    return float((first * second).norm())


def _kronecker(tensors: Mapping[str, Tensor]) -> float:
    first = tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
    if "lokr_w2" in tensors:
        second = float(tensors["lokr_w2"].norm())
    elif "lokr_t2" in tensors:
        second = _tucker_norm(tensors["lokr_t2"], tensors["lokr_w2_a"], tensors["lokr_w2_b"])
    else:
        second = float((tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]).norm())
    return float(first.norm()) * second


def _tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Multiply a kernel out: core (r, s, kh, kw), left (r, O), right (s, I) -> (O, I, kh, kw)."""
    import torch

    return torch.einsum("rskl,ro,si->oikl", core, left, right)


def _tucker_norm(core: Tensor, left: Tensor, right: Tensor) -> float:
    return float(_tucker(core, left, right).norm())


def _difference(tensors: Mapping[str, Tensor]) -> float:
    return float(tensors["diff"].norm())


_NORMS: Mapping[str, Callable[[Mapping[str, Tensor]], float]] = {
    "lora": _low_rank,
    "loha": _hadamard,
    "lokr": _kronecker,
    "full": _difference,
}
