"""Forge 2.0.1v1.10.1: `extensions-builtin/sd_forge_lora`, `backend/loader.py`, `backend/patcher/lora.py`.

lllyasviel/stable-diffusion-webui-forge looks like A1111, and reads adapters with ComfyUI's code of 2024. Too many keys
that it does not know, and it drops the whole file; the console tells it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdtune.errors import ModelError
from sdtune.formats.consumers import adapters, comfy, dialects, embeddings
from sdtune.formats.consumers.adapters import find_algorithm
from sdtune.formats.consumers.checkpoints import note_prediction, read_checkpoint
from sdtune.formats.consumers.reading import BaseView, File, Reading, first_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sdtune.formats.consumers.dialects import Renamed
    from sdtune.models.base import DiffusionModel, Prediction

_MOST_UNMATCHED = 12  # keys; one more, and the file is dropped
_ENDS = dialects.OWN | dialects.OLD | dialects.PEFT
# Taken of every layer it has a name for, with whatever algorithm.
_ALWAYS_TAKEN = frozenset({adapters.ALPHA, adapters.DORA, "diff_b"})


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file as Forge does."""
    match file.kind:
        case "lora":
            return read_adapters(file, view)
        case "checkpoint":
            return _read_checkpoint(file, view, model)
        case "embedding":
            return _read_embedding(file, view)
        case "hypernetwork":
            return Reading(unsupported="it lists hypernetworks, and its attention never asks them: no effect")


def read_adapters(file: File, view: BaseView) -> Reading:
    """Read an adapter's file; see `comfy`."""
    if reason := dialects.only_hcp(file):
        return Reading(unsupported=reason)
    renamed = dialects.rename(file, dict(_names(view)), _ENDS)
    reading = comfy.read_layers(renamed, view, comfy.ALGORITHMS)
    if any("lokr_t2" in group and layer in renamed.names for layer, group in renamed.file.groups.items()):
        reading.unsupported = f"{comfy.TUCKER_FAILS}, and with it the file"
    unmatched = sum(_count_unmatched(renamed))
    reading = renamed.undo(reading)
    if unmatched > _MOST_UNMATCHED:
        key, reason = next(iter((reading.skipped or reading.unknown).items()))
        told = f"it drops files with more than {_MOST_UNMATCHED} unknown keys, here {unmatched}: {key} ({reason})"
        if reading.skipped:
            reading.refused = told
        else:
            reading.unsupported = told
    return reading


def _names(view: BaseView) -> Iterator[tuple[str, str]]:
    yield from comfy.unet_names(view)
    yield from comfy.text_names(view)
    if view.family == "sdxl":
        yield "text_encoder.text_projection", "text_encoder_2.text_projection"


def _count_unmatched(renamed: Renamed) -> Iterator[int]:
    """Count, layer by layer, the keys that are left when all its names have been looked up."""
    for layer, group in renamed.file.groups.items():
        algorithm = find_algorithm(group, comfy.ALGORITHMS)
        taken = (algorithm.names if algorithm else frozenset()) | _ALWAYS_TAKEN
        yield len(group.keys() - taken) if layer in renamed.names else len(group)


def _read_embedding(file: File, view: BaseView) -> Reading:
    """Read vectors as A1111 does, but without A1111's own rules for pickles."""
    try:
        content = embeddings.content_of(file)
    except ModelError as error:
        return Reading(refused=str(error))
    return embeddings.read_vectors(file, view, content)


def _read_checkpoint(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Tell the family by the form of the UNet, and v by a `.yaml` beside the file or by SDXL's mark."""
    if not comfy.has_model(file):
        return Reading(refused="no model is recognised: its UNet has another prefix")
    if (found := comfy.family(file)) != view.family:
        return Reading(refused=f"it is taken for a model of the family {found}")
    reading = read_checkpoint(file, view)
    try:
        note_prediction(reading, model, *_prediction(file, found))
    except ValueError as error:
        reading.refused = reading.refused or f"the .yaml beside it cannot be read: {error}"
    comfy.note_zero_snr(reading, file, model)
    return reading


def _prediction(file: File, family: str) -> tuple[Prediction, str]:
    """Follow the `.yaml` where it says v; else SDXL's mark. SD2's telling bias is looked for in the wrong place."""
    config = file.path.with_suffix(".yaml")
    if config.is_file() and _says_v(config.read_text(encoding="utf-8", errors="replace")):
        return "v_prediction", config.name
    if family != "sdxl":
        return "epsilon", f"{config.name} does not say v" if config.is_file() else f"there is no {config.name}"
    has_mark = comfy.V_MARK in file.tensors
    return "v_prediction" if has_mark else "epsilon", f"{'' if has_mark else 'no '}tensor {comfy.V_MARK}"


def _says_v(text: str) -> bool:
    """Tell whether a configuration names v: as `parameterization`, or as the scaling of SDXL's.

    Raises:
        ValueError: It is no YAML.
    """
    import yaml

    try:
        parameters = _inside(yaml.safe_load(text), "model", "params")
    except yaml.YAMLError as error:
        raise ValueError(first_lines(error)) from error
    scaling = _inside(parameters, "denoiser_config", "params", "scaling_config")
    told = str(parameters.get("parameterization") or scaling.get("target", ""))
    return told == "v" or told.endswith(".VScaling")


def _inside(content: Any, *names: str) -> Mapping[str, Any]:
    """Give what lies under a chain of names; empty where one is not there."""
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else {}
