"""The document of `sdtune inspect --json`, its fields in `docs/inspect.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.files import hash_file
from sdtune.formats.describe.adapter import describe_adapter
from sdtune.formats.describe.embedding import describe_embedding, describe_embedding_readers
from sdtune.formats.describe.hypernetwork import describe_hypernetwork, describe_network_readers
from sdtune.formats.describe.model import describe_model
from sdtune.formats.describe.readers import describe_readers
from sdtune.formats.describe.remarks import list_remarks
from sdtune.formats.describe.training import describe_training

if TYPE_CHECKING:
    from pathlib import Path

    from sdtune.formats.facts import FileFacts

SCHEMA = 1
_MODELS = {"checkpoint", "diffusers_folder", "unet", "vae", "text_encoder"}
_ADAPTERS = {"lora", "lycoris"}
_CHECKED_BYTES = 1 << 29  # half a GiB is hashed in a second or so; larger files on request
_SIDECARS = (
    ".yaml",
    ".json",
    ".txt",
    ".png",
    ".preview.png",
    ".vae.safetensors",
    ".vae.pt",
    ".civitai.info",
    ".pt.optim",
)
# Digits of a file's hash that webui shows; for an adapter it is the hash of the tensors.
_SHORT = {"checkpoint": 10, "hypernetwork": 10, "embedding": 12}


def describe(facts: FileFacts, *, weights: bool = False, hashes: bool = False, keys: bool = False) -> dict[str, Any]:
    """Tell everything about a file as plain values.

    Args:
        facts: What `recognize` found.
        weights: Also read every tensor.
        hashes: Also hash the whole file.
        keys: Also list the tensors.
    """
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "path": str(facts.path),
        "form": facts.contents.form,
        "size_bytes": facts.contents.size_bytes,
        "kind": facts.kind,
        "family": facts.family,
        "family_reason": facts.family_reason,
        "tensors": len(facts.tensors),
        "parameters": facts.parameters,
        "dtypes": {
            name: {"tensors": share.tensors, "parameters": share.parameters, "size_bytes": share.size_bytes}
            for name, share in facts.dtypes.items()
        },
        **_describe_kind(facts),
        "training": describe_training(facts.metadata),
        "hashes": _describe_hashes(facts, whole=hashes),
        "sidecars": _sidecars(facts.path),
        "remarks": [],
        "metadata": dict(facts.metadata),
    }
    document["remarks"] = list_remarks(facts, document)
    if weights:
        from sdtune.formats.describe.weights import describe_weights

        document["weights"] = describe_weights(facts)
    if keys:
        document["keys"] = {name: [tensor.dtype, *tensor.shape] for name, tensor in facts.tensors.items()}
    return document


def _describe_kind(facts: FileFacts) -> dict[str, Any]:
    if facts.kind in _ADAPTERS:
        return {"adapter": describe_adapter(facts), "loads_in": describe_readers(facts)}
    if facts.kind == "embedding":
        section = describe_embedding(facts)
        return {"embedding": section, "loads_in": describe_embedding_readers(facts, section)}
    if facts.kind == "hypernetwork":
        section = describe_hypernetwork(facts)
        return {"hypernetwork": section, "loads_in": describe_network_readers(section)}
    return {"model": describe_model(facts)} if facts.kind in _MODELS else {}


def _describe_hashes(facts: FileFacts, *, whole: bool) -> dict[str, Any]:
    """Hash the file where that is asked for, and the tensors to check what metadata states."""
    found: dict[str, Any] = {}
    stated = facts.metadata.get("sshs_model_hash")
    is_file = facts.contents.form == "safetensors" and facts.path.is_file()
    is_checked = facts.kind in _ADAPTERS or stated is not None
    if is_file and (whole or (is_checked and facts.contents.size_bytes <= _CHECKED_BYTES)):
        found["tensors_sha256"] = hash_file(facts.path, skip_bytes=_header_bytes(facts.path))
    if stated is not None:
        found["stated"] = stated
        found["state"] = _compare(stated, found.get("tensors_sha256"))
    if whole and facts.path.is_file():
        found["sha256"] = hash_file(facts.path)
        if facts.kind in _SHORT:
            found["short"] = found["sha256"][: _SHORT[facts.kind]]
    return found


def _compare(stated: str, actual: str | None) -> str:
    if actual is None:
        return "unchecked"
    return "true" if stated == actual else "stale"


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _sidecars(path: Path) -> list[str]:
    return [
        f"{path.stem}{end}"
        for end in _SIDECARS
        if path.is_file() and path.with_name(path.stem + end).is_file() and path.with_name(path.stem + end) != path
    ]
