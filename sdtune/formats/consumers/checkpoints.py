"""Whole models in single files: what every program wants of them, and where they differ."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sdtune.formats.consumers.ldm import Slot, single_file
from sdtune.formats.consumers.reading import Reading, Use

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from sdtune.formats.consumers.reading import BaseView, Change, File
    from sdtune.models.base import DiffusionModel, Prediction

_SHOWN = 3
# Known to all programs and needed by none: buffers, the layers SD2 has behind the last one used, marks.
_NEEDLESS = re.compile(
    r"(?:model_ema\.|cond_stage_model\.model\.transformer\.resblocks\.|.*\.position_ids$|.*\.attn_mask$|.*logit_scale$|"
    r".*\.text_projection(?:\.weight)?$|v_pred$|ztsnr$|alphas|betas|sqrt_|log_one|posterior_)"
)


def read_checkpoint(
    file: File, view: BaseView, slots: Mapping[str, Slot] | None = None, *, takes_flat_attention: bool = False
) -> Reading:
    """Read a single file.

    Args:
        file: The file.
        view: The base model.
        slots: Where each weight lies; None: as in every webui.
        takes_flat_attention: A VAE's attention may be stored as linear layers, which CompVis's modules refuse.
    """
    reading, slots = Reading(), dict(single_file(view) if slots is None else slots)
    missing, wrong = [], []
    for target, slot in slots.items():
        tensor = file.tensors.get(slot.key)
        if tensor is None:
            missing.append(slot.key)
        elif not _fits(tensor, slot, takes_flat_attention=takes_flat_attention):
            wrong.append(f"{slot.key} {list(tensor.shape)}, not {list(slot.shape)}")
        else:
            reading.uses.append(Use(target=target, keys=(slot.key,), change=_put(slot, tensor)))
    known = {slot.key for slot in slots.values()}
    for key in file.tensors:
        if key not in known and _NEEDLESS.match(key):
            reading.used.add(key)
        elif key not in known:
            reading.skip((key,), "no weight of the model has this name")
    reading.refused = _complaint("its shape is wrong", wrong) or _complaint("missing, so they stay random", missing)
    return reading


def note_prediction(reading: Reading, model: DiffusionModel, found: Prediction, how: str) -> None:
    """Note what a program takes a checkpoint to predict; another thing than the base model predicts is a mistake.

    Args:
        reading: What the program makes of the file.
        model: The base model.
        found: What the program finds.
        how: By what, as shown to the user.
    """
    names = {"epsilon": "noise", "v_prediction": "v"}
    reading.predicts = f"{names[found]} ({how})"
    if found != model.prediction:
        reading.mistake = f"it samples a model of {names[model.prediction]} as one of {names[found]} ({how})"


def _fits(tensor: Tensor, slot: Slot, *, takes_flat_attention: bool) -> bool:
    shape = tuple(tensor.shape)
    return shape == slot.shape or (takes_flat_attention and slot.shape == (*shape, 1, 1))


def _put(slot: Slot, tensor: Tensor) -> Change:
    return lambda weight: slot.pick(tensor).to(weight.device).float().reshape(weight.shape)


def _complaint(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"
