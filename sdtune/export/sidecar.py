"""What lies beside a file in a webui: the card's texts and picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}


def encode_user_metadata(metadata: Mapping[str, str], *, family: str, trigger: str) -> bytes:
    """Build `NAME.json`, which A1111 and Forge read, and edit when the user edits the card.

    Args:
        metadata: The file's own metadata.
        family: Family of the base model; `sd version` overrides what the webui would guess.
        trigger: Goes into the prompt when the card is clicked.
    """
    steps, base = metadata.get("ss_steps", ""), metadata.get("ss_sd_model_name", "")
    card = {
        "description": metadata.get("modelspec.description", ""),
        "sd version": _VERSIONS.get(family, "Unknown"),
        "activation text": trigger,
        "preferred weight": 1.0,
        "negative text": "",
        "notes": f"sdtune {metadata.get('sdtune_version', '')}: {steps} steps on {base}",
    }
    return (json.dumps(card, indent=4, ensure_ascii=False) + "\n").encode()


def newest_picture(folder: Path) -> Path | None:
    """Find the picture of the first prompt at the last step (`step-00000300-00.png`), or None.

    Names decide, not the clock: pictures keep their order when a run folder is copied, and the first prompt is the one
    a user wrote for what was learned; later ones often show that the rest is kept.
    """
    steps = sorted(path.name.rpartition("-") for path in folder.glob("step-*-*.png"))
    return folder / "".join(min(name for name in steps if name[0] == steps[-1][0])) if steps else None
