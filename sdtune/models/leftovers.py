"""Tensors of a single file that are no part of the model: leftovers of known kinds, and those of no known use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdtune.models.detect import EMA_PREFIX, has_averaged_weights

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sdtune.models.storage import StoredModel

_SHOWN = 3
_KINDS = (
    (re.escape(EMA_PREFIX), "of a running average (EMA)"),
    (
        r"betas$|alphas_|sqrt_|log_one_minus|posterior_|lvlb_|logvar$|model_ema_|denoiser\.sigmas$|scale_factor$",
        "of the noise schedule",
    ),
    (r".*position_ids$|.*attn_mask$", "of positions, which every program makes itself"),
    (
        r"optimizer|callbacks|lr_scheduler|global_step$|epoch$|first_stage_model\.loss\.|embedding_manager\.",
        "of a training",
    ),
    (r".*(logit_scale|text_projection|resblocks\.)", "of the text encoder, which nothing uses"),
)


def left_out(storage: StoredModel, *, keeps_extras: bool) -> list[str]:
    """List the tensors of a single file that are no part of the model; a folder's files hold nothing else.

    Args:
        storage: The model, with its own VAE.
        keeps_extras: Tensors that are kept though nobody computes them are no leftovers.
    """
    if storage.path.is_dir():
        return []
    parts = storage.components.values()
    entries = [entry for part in parts for entry in part.entries.values()]
    entries += [entry for part in parts for entry in part.extras.values() if keeps_extras]
    starts = {entry.start for entry in entries}
    file = next(iter(parts)).file
    return [name for name, entry in file.entries.items() if entry.start not in starts and entry.end > entry.start]


def known_kind(name: str) -> str | None:
    """Say what a leftover is of, e.g. `of the noise schedule`; None: nobody knows."""
    return next((kind for pattern, kind in _KINDS if re.match(pattern, name)), None)


def leftover_notes(storage: StoredModel) -> Iterator[str]:
    """Tell a user of leftovers that may surprise: averaged weights, and tensors of no known use."""
    left = left_out(storage, keeps_extras=True)
    if has_averaged_weights(storage.shapes):
        yield f"{storage.path.name} also holds averaged weights (EMA), which are not used"
    if unknown := [name for name in left if known_kind(name) is None]:
        shown = ", ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
        yield f"{storage.path.name} also holds {len(unknown)} tensors that no part of the model uses: {shown}"
