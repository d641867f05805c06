"""A whole model as the files of a diffusers folder, which `StableDiffusionPipeline.from_pretrained` opens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from sdtune.models import naming
from sdtune.models.sidecar import encode_sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

    from sdtune.models.architecture import SDFamily
    from sdtune.models.base import Component, Prediction

_WEIGHTS, _TEXT_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
_UNUSED = {"feature_extractor": [None, None]}
_PIPELINE = "StableDiffusionPipeline", {**_UNUSED, "safety_checker": [None, None], "requires_safety_checker": False}
_POOLED_PIPELINE = (
    "StableDiffusionXLPipeline",
    {
        **_UNUSED,
        "image_encoder": [None, None],
        "force_zeros_for_empty_prompt": True,
    },
)

# schedulers of diffusers that begin in pure noise when told so
_ZERO_SNR_SCHEDULERS = {"DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"}


def part_files(
    component: Component, module: nn.Module, weights: Mapping[str, Tensor]
) -> dict[str, Mapping[str, Tensor] | bytes]:
    """Give a component's weights and configuration.

    Args:
        component: Which.
        module: The component's module, with or without weights: only its configuration is read.
        weights: Canonical name to tensor.
    """
    file = _WEIGHTS if component in naming.WEBUI_PREFIX else _TEXT_WEIGHTS
    config = module.config.to_json_string() if file == _TEXT_WEIGHTS else _diffusers_config(module)  # type: ignore[union-attr, operator]  # both libraries
    return {f"{component}/{file}": _as_diffusers(component, weights), f"{component}/config.json": config.encode()}


def _as_diffusers(component: Component, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the VAE's attention weights diffusers' shape, that of a linear layer."""
    if component != "vae":
        return dict(weights)
    return {name: t.flatten(1) if naming.is_vae_attention(name) else t for name, t in weights.items()}


def pipeline_files(
    family: SDFamily, scheduler: Mapping[str, Any], prediction: Prediction, *, is_zero_snr: bool = False
) -> dict[str, bytes]:
    """Give the index of the folder and the configuration of its scheduler.

    Args:
        family: The model's family.
        scheduler: The base model's own, empty when it has none: then Stable Diffusion's.
        prediction: What the UNet predicts.
        is_zero_snr: Its noise schedule ends in pure noise.
    """
    own = _for_zero_snr(dict(scheduler) or _default_scheduler(), is_zero_snr=is_zero_snr)
    title, rest = _POOLED_PIPELINE if any(text.is_pooled for text in family.texts) else _PIPELINE
    index = {
        "_class_name": title,
        "scheduler": ["diffusers", own.get("_class_name", "DDIMScheduler")],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        **dict(_text_classes(family)),
        **rest,
    }
    return {
        "model_index.json": encode_json(index),
        "scheduler/scheduler_config.json": encode_json({**own, "prediction_type": prediction}),
    }


def sidecar_files(
    family: SDFamily, unet: nn.Module, vae: nn.Module, scaling_factor: float, prediction: Prediction
) -> dict[str, bytes]:
    """Give what lies beside a single file for A1111: suffix to content.

    Args:
        family: The model's family.
        unet: The UNet's module, with or without weights: only its configuration is read.
        vae: The same of the VAE.
        scaling_factor: Of the latents.
        prediction: What the UNet predicts.
    """
    configs = {"unet": cast("Any", unet).config, "vae": cast("Any", vae).config}
    return {".yaml": encode_sidecar(family.name, **configs, scaling_factor=scaling_factor, prediction=prediction)}


def _for_zero_snr(scheduler: dict[str, Any], *, is_zero_snr: bool) -> dict[str, Any]:
    if is_zero_snr:
        own = scheduler if scheduler.get("_class_name") in _ZERO_SNR_SCHEDULERS else _default_scheduler()
        return {**own, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {**scheduler, "rescale_betas_zero_snr": False} if scheduler.get("rescale_betas_zero_snr") else scheduler


def _text_classes(family: SDFamily) -> Iterator[tuple[str, list[str]]]:
    for text in family.texts:
        encoder = "CLIPTextModelWithProjection" if text.is_pooled else "CLIPTextModel"
        yield text.component, ["transformers", encoder]
        yield tokenizer_folder(text.component), ["transformers", "CLIPTokenizer"]


def tokenizer_folder(component: Component) -> str:
    """Name the folder of a text encoder's tokenizer."""
    return component.replace("text_encoder", "tokenizer")


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
