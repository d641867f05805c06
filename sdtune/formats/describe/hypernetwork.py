"""A hypernetwork: its widths and layers as told and as they are, and where programs read it differently."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sdtune.formats.recognize import network_sizes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sdtune.formats.facts import FileFacts

_COMFYUI_ACTIVATIONS = {"linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish"}
_EVERY_FIELD = ("layer_structure", "activation_func", "is_layer_norm", "activate_output", "use_dropout")
_NAI_SIZES = {320, 640, 768, 1280}


def describe_hypernetwork(facts: FileFacts) -> dict[str, Any]:
    """Give the section `hypernetwork` of the document; a missing field reads as webui takes it."""
    plain: Mapping[Any, Any] = facts.contents.plain
    return {
        "name": _text(plain.get("name")),
        "sizes": sorted(network_sizes(plain)),
        "structure": _numbers(plain.get("layer_structure")) or [1, 2, 1],
        "activation": _text(plain.get("activation_func")) or "linear",
        "activate_output": bool(plain.get("activate_output", True)),
        "layer_norm": bool(plain.get("is_layer_norm", False)),
        "dropout": _numbers(plain.get("dropout_structure")) if any(_numbers(plain.get("dropout_structure"))) else None,
        "uses_dropout": bool(plain.get("use_dropout", False)),
        "missing_fields": [name for name in _EVERY_FIELD if name not in plain],
        "init": _text(plain.get("weight_initialization")),
        "step": plain.get("step") if isinstance(plain.get("step"), int) else None,
        "base_model": _text(plain.get("sd_checkpoint_name")),
        "base_hash": _text(plain.get("sd_checkpoint")),
        "shapes_fit": _shapes_fit(facts, plain),
    }


def describe_network_readers(section: Mapping[str, Any]) -> list[dict[str, str]]:
    """Give the section `loads_in` for a hypernetwork."""
    comfyui = _comfyui_obstacle(section)
    scripts = _scripts_obstacle(section)
    return [
        {"program": "A1111", "answer": "yes", "reason": ""},
        {"program": "Forge", "answer": "no", "reason": "lists the file, and never applies it"},
        {"program": "ComfyUI", "answer": comfyui[0], "reason": comfyui[1]},
        {"program": "sd-scripts", "answer": scripts[0], "reason": scripts[1]},
        {"program": "diffusers", "answer": "no", "reason": "has no such thing"},
    ]


def _comfyui_obstacle(section: Mapping[str, Any]) -> tuple[str, str]:
    if section["activation"] not in _COMFYUI_ACTIVATIONS:
        return "no", f"has no activation {section['activation']!r}"
    if section["layer_norm"] and section["activation"] != "linear" and not section["activate_output"]:
        return "wrong", "activates the output too where there are layer norms"
    if section["uses_dropout"] or section["dropout"]:
        return "wrong", "leaves dropout on, so that pictures are random"
    if "activate_output" in section["missing_fields"] and section["activation"] != "linear":
        return "wrong", "does not activate the output where the file does not tell; webui does"
    return "yes", ""


def _scripts_obstacle(section: Mapping[str, Any]) -> tuple[str, str]:
    is_nai = section["structure"] == [1, 2, 1] and section["activation"] == "linear" and not section["layer_norm"]
    fits = is_nai and set(section["sizes"]) <= _NAI_SIZES
    return ("yes", "") if fits else ("no", "reads linear networks of structure 1, 2, 1 alone, for SD1")


def _shapes_fit(facts: FileFacts, plain: Mapping[Any, Any]) -> bool:
    """Tell whether the linear layers have the sizes that the structure tells."""
    structure = _numbers(plain.get("layer_structure")) or [1, 2, 1]
    return all(
        _sides(facts, size, side)
        == [(int(size * structure[i + 1]), int(size * structure[i])) for i in range(len(structure) - 1)]
        for size in network_sizes(plain)
        for side in (0, 1)
    )


def _sides(facts: FileFacts, size: int, side: int) -> list[tuple[int, ...]]:
    prefix = f"{size}.{side}."
    names: Iterable[str] = (name for name in facts.tensors if name.startswith(prefix))
    layers = sorted((n for n in names if re.search(r"\.linear\d?\.(?:\d+\.)?weight$", n)), key=_number)
    shapes = [facts.tensors[name].shape for name in layers]
    return [shape for shape in shapes if len(shape) == 2]  # layer norms are 1-D


def _numbers(value: object) -> list[float]:
    return [item for item in value if isinstance(item, int | float)] if isinstance(value, list | tuple) else []


def _number(name: str) -> int:
    return int(re.findall(r"\d+", name)[-1])


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
