"""What is odd about a file, in a sentence each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.formats.families import family_of_metadata

if TYPE_CHECKING:
    from sdtune.formats.facts import FileFacts


def list_remarks(facts: FileFacts, document: dict[str, Any]) -> list[str]:
    """Give the section `remarks`: what a user should know who thinks that the file is as it should be."""
    stated = family_of_metadata(facts.metadata)
    found = []
    if stated and facts.family and stated[0] != facts.family:
        found.append(f"{stated[1]}, but {facts.family_reason}")
    if document["hashes"].get("state") == "stale":
        found.append(
            "the hash in its metadata is not that of its tensors: webuis and model sites know it by a false one"
        )
    if "adapter" in document:
        found += _adapter_remarks(facts, document["adapter"])
    if "model" in document:
        found += _model_remarks(document["model"])
    if document.get("hypernetwork", {}).get("shapes_fit") is False:
        found.append("its layers do not have the sizes that its layer_structure tells")
    return found


def _adapter_remarks(facts: FileFacts, adapter: dict[str, Any]) -> list[str]:
    found = []
    if adapter["without_alpha"] and facts.dialect == "kohya":
        found.append(f"{adapter['without_alpha']} modules have no alpha: every program takes scale 1 for them")
    if adapter["alpha"] and adapter["alpha"]["min"] == 0 and facts.algorithms[0] in {"lora", "loha", "lokr"}:
        found.append("an alpha of 0 means no effect in webuis, and alpha = rank in kohya's scripts")
    metadata = facts.metadata
    shown = "sdxl" if metadata.get("ss_base_model_version", "").startswith("sdxl_") else "sd1"
    shown = "sd2" if shown == "sd1" and metadata.get("ss_v2") == "True" else shown
    if metadata and facts.family and shown != facts.family and facts.dialect == "kohya":
        found.append(f"its metadata makes A1111 list it as {shown.upper()}; it works when it is named in the prompt")
    if adapter["strays"]:
        found.append(f"{len(adapter['strays'])} tensors belong to no layer, e.g. {adapter['strays'][0]}")
    return found


def _model_remarks(model: dict[str, Any]) -> list[str]:
    found = []
    for name, part in model["parts"].items():
        if part["missing"]:
            found.append(f"{name} lacks {len(part['missing'])} tensors, e.g. {part['missing'][0]}")
        if part.get("position_ids", "I64") not in {"I64", None}:
            found.append(
                f"position_ids of {name} are {part['position_ids']}, as merging leaves them: programs drop them"
            )
        if part.get("has_text_model") is False:
            found.append(f"{name} has names without text_model., which some programs do not read")
    if model["missing_parts"]:
        found.append(f"it has no {', '.join(model['missing_parts'])}")
    if model["strays"]:
        found.append(f"{len(model['strays'])} tensors belong to nothing, e.g. {model['strays'][0]}")
    if model.get("prediction", {}).get("is_disputed"):
        found.append(
            "marks disagree about what it predicts: "
            + "; ".join(f"{item['kind']} by {item['reason']}" for item in model["prediction"]["evidence"])
        )
    return found
