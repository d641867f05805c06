"""Whether other programs' reading of a file can be compared at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.errors import ConfigError, ModelError
from sdtune.formats.describe.weights import list_not_finite
from sdtune.formats.recognize import recognize

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdtune.export.artifact import ArtifactKind
    from sdtune.formats.facts import FileFacts, Kind

_GIVE = "give a LoRA, a LyCORIS file, an embedding, a hypernetwork or a checkpoint"
# Kinds of files whose reading is compared, and what programs take them for.
VERIFIED: Mapping[Kind, ArtifactKind] = {
    "lora": "lora",
    "lycoris": "lora",
    "embedding": "embedding",
    "hypernetwork": "hypernetwork",
    "checkpoint": "checkpoint",
}


def examine(file: Path) -> FileFacts:
    """Tell what a file is, and refuse what no comparison would explain.

    Raises:
        ConfigError: There is no such file.
        ModelError: It is of another kind, or holds NaN or infinity.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is a folder" if file.is_dir() else f"there is no file {file}", hint=_GIVE)
    facts = recognize(file)
    if facts.kind not in VERIFIED:
        raise ModelError(f"{file.name} is of a kind that is not verified", hint=_GIVE)
    if names := list_not_finite(facts):
        raise ModelError(
            f"{file.name} holds NaN or infinity in {len(names)} of {len(facts.tensors)} tensors, first: {names[0]}",
            hint="it is spoiled: train again with a lower rate, or take the file of an earlier epoch",
        )
    return facts
