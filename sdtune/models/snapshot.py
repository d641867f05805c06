"""A whole model as the files of a diffusers folder, which `StableDiffusionPipeline.from_pretrained` opens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from sdtune.models import naming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from sdtune.models.base import Part, Prediction

_WEIGHTS: Mapping[Part, str] = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
_CLASSES = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def part_files(part: Part, module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Mapping[str, Tensor] | bytes]:
    """Give a part's weights and configuration.

    Args:
        part: Which.
        module: The part's module, with or without weights: only its configuration is read.
        weights: Canonical name to tensor.
    """
    named = {naming.text_name(name) if part == "text_encoder" else name: weights[name] for name in weights}
    config = cast("Any", module.config).to_json_string() if part == "text_encoder" else _diffusers_config(module)
    return {f"{part}/{_WEIGHTS[part]}": named, f"{part}/config.json": config.encode()}


def pipeline_files(scheduler: Mapping[str, Any], prediction: Prediction) -> dict[str, bytes]:
    """Give the index of the folder and the configuration of its scheduler.

    Args:
        scheduler: The base model's own, empty when it has none: then Stable Diffusion's.
        prediction: What the UNet predicts.
    """
    own = dict(scheduler) or _default_scheduler()
    classes = _CLASSES | {"scheduler": ["diffusers", own.get("_class_name", "DDIMScheduler")]}
    index = {
        "_class_name": "StableDiffusionPipeline",
        **classes,
        "feature_extractor": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    return {
        "model_index.json": encode_json(index),
        "scheduler/scheduler_config.json": encode_json({**own, "prediction_type": prediction}),
    }


def encode_json(content: object) -> bytes:
    """Give JSON as diffusers writes it."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _diffusers_config(module: nn.Module) -> str:
    text: str = cast("Any", module).to_json_string()
    return text


def _default_scheduler() -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
