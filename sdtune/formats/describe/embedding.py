"""An embedding: how many vectors for which text encoder, how long they are, and which programs take it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from sdtune.formats.recognize import embedding_widths

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune.formats.facts import FileFacts

_PROGRAMS = ("A1111", "Forge", "ComfyUI", "sd-scripts", "diffusers")
_MOST_VECTORS = 75  # tokens in a chunk of a prompt; more vectors are not measured


def describe_embedding(facts: FileFacts) -> dict[str, Any]:
    """Give the section `embedding` of the document."""
    plain: Mapping[str, Any] = facts.contents.plain if isinstance(facts.contents.plain, dict) else {}
    encoders = {encoder: _describe_vectors(facts, encoder) for encoder in embedding_widths(facts.contents)}
    step = plain.get("step")
    return {
        "name": _name(facts, plain),
        "encoders": encoders,
        "vectors": next(iter(encoders.values()))["vectors"],
        "step": step if isinstance(step, int) else None,
        "base_model": _text(plain.get("sd_checkpoint_name")),
        "base_hash": _text(plain.get("sd_checkpoint")),
    }


def describe_embedding_readers(facts: FileFacts, section: Mapping[str, Any]) -> list[dict[str, str]]:
    """Give the section `loads_in` for an embedding."""
    return [_answer(program, _obstacle(program, facts, section)) for program in _PROGRAMS]


def _obstacle(program: str, facts: FileFacts, section: Mapping[str, Any]) -> str:
    encoders, is_webui = section["encoders"], program in _PROGRAMS[:2]
    counts = {vectors["vectors"] for vectors in encoders.values()}
    if facts.family is None:
        return "no base model has this width"
    if facts.contents.form == "picture":
        return "" if is_webui else "reads no pictures"
    if is_webui and ("clip_g" in encoders) != ("clip_l" in encoders and len(encoders) > 1):
        return "wants clip_l and clip_g in one file"
    if len(counts) > 1:
        return "wants as many vectors for both text encoders"
    if program == "diffusers" and len(encoders) > 1:
        return "takes one tensor at a time: load clip_l and clip_g one by one"
    return ""


def _describe_vectors(facts: FileFacts, encoder: str) -> dict[str, Any]:
    name = _tensor_name(facts, encoder)
    shape = facts.tensors[name].shape
    count, width = (1, shape[0]) if len(shape) == 1 else shape
    values = facts.contents.read_values(name) if count <= _MOST_VECTORS else []
    rows = [values[i * width : (i + 1) * width] for i in range(count)] if values else []
    norms = [math.sqrt(sum(value * value for value in row)) for row in rows]
    return {
        "vectors": count,
        "width": width,
        "dtype": facts.tensors[name].dtype,
        "norms": [float(f"{norm:.4g}") if math.isfinite(norm) else None for norm in norms],
    }


def _tensor_name(facts: FileFacts, encoder: str) -> str:
    if encoder in facts.tensors:
        return encoder
    words = [name for name in facts.tensors if name.startswith("string_to_param.")]
    return (words or list(facts.tensors))[0]


def _name(facts: FileFacts, plain: Mapping[str, Any]) -> str:
    """Give the word in a prompt: the file's name, of a picture the name inside."""
    inner = plain.get("name")
    return inner if facts.contents.form == "picture" and isinstance(inner, str) else facts.path.stem


def _answer(program: str, reason: str) -> dict[str, str]:
    one_by_one = reason.startswith("takes one tensor")
    return {
        "program": program,
        "answer": "no" if reason and not one_by_one else "partly" if reason else "yes",
        "reason": reason,
    }


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
