"""diffusers, called for real: its loaders put a file into the base model, and what they made is read back.

A LoRA also needs the package `peft`. Nothing of the model stays changed.
"""

from __future__ import annotations

import contextlib
import io
import logging
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from sdtune.errors import ModelError, is_out_of_memory
from sdtune.formats.consumers import dialects
from sdtune.formats.consumers.adapters import ALGORITHMS, DORA, LOW_RANK, find_algorithm, keys_of
from sdtune.formats.consumers.applying import named_layers, text_encoders
from sdtune.formats.consumers.embeddings import NO_PICTURES, take_vectors, tensors_in, widths
from sdtune.formats.consumers.reading import BaseView, File, Reading, Use, first_lines, unpickle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

    from sdtune.formats.consumers.dialects import Renamed
    from sdtune.formats.consumers.reading import Change
    from sdtune.models.base import DiffusionModel

_NO_PEFT = "its LoRA loader needs the package peft; pip install peft"
_ADAPTER = "file"


def read(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Read a file with diffusers' own loaders."""
    match file.kind:
        case "lora":
            return _read_adapters(file, view, model)
        case "checkpoint":
            return _read_checkpoint(file, view, model)
        case "embedding":
            return _read_embedding(file, view, model)
        case "hypernetwork":
            return Reading(unsupported="it has no hypernetworks")


def _read_adapters(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    meant = dialects.as_meant(file, view)
    if reason := _never_read(file, meant):
        return Reading(unsupported=reason)
    pipeline = _pipeline(view.family, model)
    # alpha in the metadata is read of files alone
    given: Any = str(file.path) if dialects.METADATA in file.metadata else dict(file.tensors)
    try:
        with _quiet():
            pipeline.load_lora_weights(given, adapter_name=_ADAPTER)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        return Reading(refused=first_lines(error))
    else:
        uses = list(_adapted(model))
    finally:
        with _quiet():
            pipeline.unload_lora_weights()
    reading = _note_layers(file, meant, {use.target.removesuffix(".weight") for use in uses})
    reading.uses = uses
    return reading


def read_names(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Do the same as far as names tell: a LoRA's are converted by diffusers, and no layers are built."""
    if file.kind != "lora":
        return read(file, view, model)
    meant = dialects.as_meant(file, view)
    if reason := _never_read(file, meant):
        return Reading(unsupported=reason)
    try:
        adapted = _converted_layers(file, view, model)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        return Reading(refused=first_lines(error))
    return _note_layers(file, meant, adapted)


def _never_read(file: File, meant: Renamed) -> str:
    """Say why such a file is never read; empty when it is."""
    if reason := dialects.only_hcp(file) or _not_for_diffusers(meant.file):
        return reason
    return "" if find_spec("peft") else _NO_PEFT


def _note_layers(file: File, meant: Renamed, adapted: set[str]) -> Reading:
    """Note the keys of a file: those of layers that were adapted, of others, and what is left out."""
    reading = Reading()
    for layer, group in meant.file.groups.items():
        if LOW_RANK.needs(group):
            reading.used |= set(keys_of(layer, group))
            if meant.names.get(layer) not in adapted:
                reading.skip(keys_of(layer, group), "it adapted no layer for it")
    reading = meant.undo(reading)
    for layer, group in file.groups.items():
        if DORA in group:
            reading.unknown |= dict.fromkeys(keys_of(layer, [DORA]), "it leaves magnitudes out")
    return reading


def _converted_layers(file: File, view: BaseView, model: DiffusionModel) -> set[str]:
    """Name the layers of the base model that diffusers finds in a LoRA."""
    from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
    from diffusers.utils import state_dict_utils as utils

    tensors = dict(file.tensors)
    with _quiet():
        if view.family == "sdxl":
            unet: Any = model.part("unet")
            found, _ = StableDiffusionXLLoraLoaderMixin.lora_state_dict(tensors, unet_config=unet.config)
        else:
            found, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(tensors)
        unet_part = {name: tensor for name, tensor in found.items() if name.startswith("unet.")}
        text_part = {name: tensor for name, tensor in found.items() if name not in unet_part}
        named = utils.convert_unet_state_dict_to_peft(unet_part)
        if text_part:
            named |= utils.convert_state_dict_to_peft(utils.convert_state_dict_to_diffusers(text_part))
    return {name.rpartition(".lora_")[0] for name in named}


def _not_for_diffusers(file: File) -> str:
    """Tell an algorithm that it never reads."""
    for group in file.groups.values():
        algorithm = find_algorithm(group, ALGORITHMS)
        if algorithm is not None and algorithm is not LOW_RANK:
            return "it knows no algorithm but LoRA"
        if "lora_mid.weight" in group:
            return "it knows no LoRA of three factors (Tucker)"
    return ""


def _adapted(model: DiffusionModel) -> Iterator[Use]:
    """Read the changes off the layers that peft has put into the base model."""
    for path, layer in named_layers(model):
        factors = dict(layer.named_children())
        if "lora_A" in factors and "base_layer" in factors:
            adapter: Any = layer
            down = adapter.lora_A[_ADAPTER].weight.detach()
            up, scale = adapter.lora_B[_ADAPTER].weight.detach(), float(adapter.scaling[_ADAPTER])
            yield Use(target=f"{path}.weight", keys=(), change=_change(down, up, scale))


def _change(down: Tensor, up: Tensor, scale: float) -> Change:
    def change(weight: Tensor) -> Tensor:
        return weight + scale * (up.float().flatten(1) @ down.float().flatten(1)).reshape(weight.shape)

    return change


def _pipeline(family: str, model: DiffusionModel) -> Any:
    """Build the pipeline around the base's own modules; nothing is loaded."""
    import diffusers

    parts: dict[str, Any] = {"unet": model.part("unet"), "vae": None, "scheduler": None, "tokenizer": None}
    parts |= text_encoders(model)
    with _quiet():  # the classes are imported here too: transformers tells of torchvision, which nothing needs
        if family == "sdxl":
            return diffusers.StableDiffusionXLPipeline(**parts, tokenizer_2=None, add_watermarker=False)
        return diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )


def _read_embedding(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Load the vectors into bare text encoders of the base's widths, tensor by tensor where there are two."""
    if file.is_picture:
        return Reading(unsupported=NO_PICTURES)
    try:
        content: Mapping[Any, Any] = unpickle(file.path) if file.is_pickled else file.tensors
    except ModelError as error:
        return Reading(refused=str(error))
    values, wanted = tensors_in(content), widths(view)
    reading, vectors = Reading(), {}
    for encoder, width in wanted.items():
        given: Any = dict(content) if len(wanted) == 1 else values.get(encoder)
        if given is None:
            reading.refused = f"there is no tensor {encoder} to load"
            return reading
        try:
            vectors[encoder] = _load_vectors(given, width, file.path.stem, model)
        except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
            reading.refused = first_lines(error)
            return reading
    used = values if len(wanted) == 1 else {encoder: values[encoder] for encoder in wanted}
    reading.skip(map(str, values.keys() - used.keys()), "it is not loaded")
    return take_vectors(reading, file, view, vectors, used=used)


def _load_vectors(given: Any, width: int, word: str, model: DiffusionModel) -> Tensor:
    import copy

    import diffusers

    from sdtune.models.libraries import text_classes

    text_model, text_config = text_classes()
    own: Any = model.tokenizer
    tokenizer = copy.deepcopy(own)
    sizes = {"hidden_size": width, "intermediate_size": 1, "num_hidden_layers": 1, "num_attention_heads": 1}
    with _quiet():
        bare = text_model(text_config(vocab_size=len(tokenizer), **sizes))
        pipeline = diffusers.StableDiffusionPipeline(
            **{"unet": None, "vae": None, "scheduler": None, "tokenizer": tokenizer, "text_encoder": bare},
            **{"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        )
        pipeline.load_textual_inversion(given, token=f"<{word}>")
    added: Tensor = bare.get_input_embeddings().weight.detach()[len(own) :]
    return added


def _read_checkpoint(file: File, view: BaseView, model: DiffusionModel) -> Reading:
    """Convert the file with the functions of `from_single_file`; the modules are the base's own."""
    reading = Reading()
    states: dict[str, Tensor] = {}
    try:
        for component, convert in _converters(view, model).items():
            found = convert(checkpoint=dict(file.tensors))
            states |= {f"{component}.{_file_form(component, name)}": tensor for name, tensor in found.items()}
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        reading.refused = first_lines(error)
        return reading
    missing = [name for name in view.shapes if name not in states]
    wrong = [n for n, shape in view.shapes.items() if n in states and states[n].numel() != torch.Size(shape).numel()]
    if missing or wrong:
        reading.refused = f"{'missing' if missing else 'of a wrong shape'}: {', '.join((missing or wrong)[:3])}"
        return reading
    for target in view.shapes:
        reading.uses.append(Use(target=target, keys=(), change=partial(_as, states[target])))
    reading.used |= file.tensors.keys()
    reading.predicts = f"{'v' if view.family == 'sd2' else 'noise'}, unless the argument scheduler says otherwise"
    return reading


def _as(tensor: Tensor, weight: Tensor) -> Tensor:
    return tensor.to(weight.device).float().reshape(weight.shape)


def _file_form(component: str, name: str) -> str:
    is_text = component.startswith("text_encoder") and not name.startswith(("text_model.", "text_projection"))
    return f"text_model.{name}" if is_text else name


def _converters(view: BaseView, model: DiffusionModel) -> dict[str, Any]:
    from diffusers.loaders import single_file_utils as utils

    unet: Any = model.part("unet")
    found = {"unet": partial(utils.convert_ldm_unet_checkpoint, config=dict(unet.config))}
    if model.is_loaded("vae"):
        vae: Any = model.part("vae")
        found["vae"] = partial(utils.convert_ldm_vae_checkpoint, config=dict(vae.config))
    if view.family == "sd1":
        found["text_encoder"] = utils.convert_ldm_clip_checkpoint
    elif view.family == "sd2":
        found["text_encoder"] = partial(_open_clip, prefix="cond_stage_model.model.", model=model, at="text_encoder")
    else:
        found["text_encoder"] = partial(utils.convert_ldm_clip_checkpoint, remove_prefix="conditioner.embedders.0.")
        found["text_encoder_2"] = partial(
            _open_clip, prefix="conditioner.embedders.1.model.", model=model, at="text_encoder_2"
        )
    return found


def _open_clip(*, checkpoint: dict[str, Tensor], prefix: str, model: DiffusionModel, at: str) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as utils

    converted: dict[str, Tensor] = utils.convert_open_clip_checkpoint(
        text_encoders(model)[at], checkpoint, prefix=prefix
    )
    return converted


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep a library's own words off the terminal; what matters of them is in the reading."""
    import warnings

    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
