"""What a file's metadata tells about its training, in sdtune's words: kohya's `ss_*` and ModelSpec."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_TAGS = 10
_TEXTS = {
    "title": "modelspec.title",
    "author": "modelspec.author",
    "trigger": "modelspec.trigger_phrase",
    "base_model": "ss_sd_model_name",
    "base_hash": "ss_new_sd_model_hash",
    "learning_rate": "ss_learning_rate",
    "unet_lr": "ss_unet_lr",
    "text_encoder_lr": "ss_text_encoder_lr",
    "optimizer": "ss_optimizer",
    "schedule": "ss_lr_scheduler",
    "precision": "ss_mixed_precision",
    "network_module": "ss_network_module",
    "prediction": "modelspec.prediction_type",
    "comment": "ss_training_comment",
    "sdtune_version": "sdtune_version",
}
_NUMBERS = {
    "steps": "ss_steps",
    "total_steps": "ss_max_train_steps",
    "epoch": "ss_epoch",
    "total_epochs": "ss_num_epochs",
    "batch_size": "ss_total_batch_size",
    "images": "ss_num_train_images",
    "regularization_images": "ss_num_reg_images",
    "seed": "ss_seed",
    "clip_skip": "ss_clip_skip",
}


def describe_training(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Give the section `training` of the document: only what is told."""
    texts = {name: metadata.get(key, "").strip() for name, key in _TEXTS.items()}
    numbers = {name: _number(metadata.get(key, "")) for name, key in _NUMBERS.items()}
    found: dict[str, Any] = {
        **{name: text for name, text in texts.items() if text not in {"", "None"}},
        **{name: number for name, number in numbers.items() if number is not None},
        "resolution": _resolution(metadata),
        "tags": _top_tags(metadata.get("ss_tag_frequency", "")),
        "folders": _folders(metadata.get("ss_dataset_dirs", "")),
        "date": metadata.get("modelspec.date") or _date(metadata.get("ss_training_finished_at", "")),
        "seconds": _seconds(metadata),
    }
    return {name: value for name, value in found.items() if value not in (None, "", [], {})}


def _number(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _resolution(metadata: Mapping[str, str]) -> str:
    """Give `WIDTHxHEIGHT` of kohya's `(512, 512)` or `512`, or of ModelSpec."""
    sides = re.findall(r"\d+", metadata.get("ss_resolution", ""))[:2]
    return f"{sides[0]}x{sides[-1]}" if sides else metadata.get("modelspec.resolution", "")


def _top_tags(text: str) -> list[dict[str, Any]]:
    """Add up the tags of all folders; the most frequent first."""
    counts: Counter[str] = Counter()
    for tags in _mapping(text).values():
        if isinstance(tags, dict):
            counts.update({str(tag).strip(): n for tag, n in tags.items() if isinstance(n, int)})
    return [{"tag": tag, "count": count} for tag, count in counts.most_common(_MOST_TAGS)]


def _folders(text: str) -> list[dict[str, Any]]:
    return [
        {"name": str(name), "repeats": folder.get("n_repeats"), "images": folder.get("img_count")}
        for name, folder in _mapping(text).items()
        if isinstance(folder, dict)
    ]


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _date(text: str) -> str:
    try:
        return datetime.fromtimestamp(int(float(text)), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return ""


def _seconds(metadata: Mapping[str, str]) -> int | None:
    start, end = (_number(metadata.get(f"ss_training_{name}_at", "")) for name in ("started", "finished"))
    return end - start if start is not None and end is not None and end >= start > 0 else None
