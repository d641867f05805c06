"""A model, or a part of one: which parts are there, whole or not, and how the UNet is to be used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.formats.describe.layout import (
    EMA_PREFIX,
    count_layers,
    is_open_clip,
    split_parts,
    take_inventory,
)
from sdtune.formats.describe.prediction import describe_prediction
from sdtune.formats.facts import share_dtypes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.formats.facts import FileFacts, TensorFacts

_TASKS = {4: "text to image", 9: "inpainting", 8: "instruct-pix2pix", 5: "depth to image"}
_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_WANTED = ("unet", "vae", "text_encoder")


def describe_model(facts: FileFacts) -> dict[str, Any]:
    """Give the section `model` of the document."""
    parts, left = split_parts(facts.contents)
    if facts.kind in _PARTS and facts.kind not in parts:  # a part alone, under bare names
        parts, left = {facts.kind: {_bare(name): name for name in facts.tensors}}, []
    weights = {part: parts[part] for part in _PARTS if part in parts}
    inventories = {part: take_inventory(part, names) for part, names in weights.items()}
    section: dict[str, Any] = {
        "parts": {part: _describe_part(part, facts, names) for part, names in weights.items()},
        "missing_parts": _missing_parts(facts, weights),
        "other_parts": sorted(set(parts) - {*_PARTS, "ema", "buffers", "marks"}),
        "ema_tensors": len(parts.get("ema", {})),
        "schedule_buffers": len(parts.get("buffers", {})),
        "strays": [*left, *(name for inventory in inventories.values() for name in inventory.strays)],
    }
    if "unet" in weights:
        section |= {**_describe_unet(facts, weights), "prediction": describe_prediction(facts)}
    return section


def _describe_part(part: str, facts: FileFacts, names: Mapping[str, str]) -> dict[str, Any]:
    tensors = {name: facts.tensors[full] for name, full in names.items()}
    missing = take_inventory(part, names).missing
    shares = share_dtypes(tensors)
    described = {
        "tensors": len(tensors),
        "parameters": sum(tensor.count for tensor in tensors.values()),
        "size_bytes": sum(tensor.size_bytes for tensor in tensors.values()),
        "dtypes": {dtype: share.tensors for dtype, share in shares.items()},
        "missing": list(missing),
    }
    return described | (_describe_text(tensors) if part.startswith("text_encoder") else {})


def _describe_text(tensors: Mapping[str, TensorFacts]) -> dict[str, Any]:
    open_clip = is_open_clip(tensors)
    pattern = r"transformer\.resblocks\.(\d+)\." if open_clip else r"(?:text_model\.)?encoder\.layers\.(\d+)\."
    positions = [tensor.dtype for name, tensor in tensors.items() if name.endswith("position_ids")]
    tables = [tensor.shape for name, tensor in tensors.items() if name.endswith("token_embedding.weight")]
    return {
        "layers": count_layers(tensors, pattern),
        "width": tables[0][-1] if tables and tables[0] else None,
        "vocabulary": tables[0][0] if tables and tables[0] else None,
        "names": "open_clip" if open_clip else "transformers",
        "has_text_model": open_clip or any(name.startswith("text_model.") for name in tensors),
        "position_ids": positions[0] if positions else None,
    }


def _describe_unet(facts: FileFacts, parts: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    shapes = {name: facts.tensors[full].shape for name, full in parts["unet"].items()}
    first = shapes.get("input_blocks.0.0.weight") or shapes.get("conv_in.weight") or (0, 0)
    contexts = {shape[-1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and shape}
    is_refiner = "text_encoder_2" in parts and "text_encoder" not in parts and contexts == {1280}
    return {
        "input_channels": first[1] if len(first) > 1 else 0,
        "task": "refiner" if is_refiner else _TASKS.get(first[1] if len(first) > 1 else 0, "unknown"),
        "width": first[0],
        "context_width": contexts.pop() if len(contexts) == 1 else None,
    }


def _missing_parts(facts: FileFacts, parts: Mapping[str, object]) -> list[str]:
    if facts.kind not in {"checkpoint", "diffusers_folder"}:
        return []
    wanted = (*_WANTED, "text_encoder_2") if facts.family == "sdxl" else _WANTED
    return [part for part in wanted if part not in parts]


def _bare(name: str) -> str:
    for prefix in (EMA_PREFIX, "transformer.", "text_encoder.", "first_stage_model."):
        if name.startswith(prefix) and not name.startswith("transformer.resblocks."):
            return name.removeprefix(prefix)
    return name
