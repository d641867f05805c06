"""Pictures from a model, by classifier-free guidance (Ho & Salimans 2022)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from sdtune.diffusion.objective import velocity_of_sample
from sdtune.errors import ConfigError, NumericsError, Problems
from sdtune.models.base import join_conditionings
from sdtune.models.modes import evaluating
from sdtune.randomness import derive_generator
from sdtune.sampling.schedulers import make_scheduler

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from sdtune.models.base import Conditioning, DiffusionModel, Part
    from sdtune.sampling.request import PictureRequest


def sample(
    model: DiffusionModel,
    requests: Sequence[PictureRequest],
    *,
    conditionings: Mapping[str, Conditioning] | None = None,
) -> list[Image.Image]:
    """Draw one picture for each request, each as if it were the only one.

    Parts that are not loaded are borrowed for as long as they are needed. Modes (train, eval) and the global random
    state are left as they were.

    Args:
        model: The model, with whatever is attached to it.
        requests: What to draw.
        conditionings: What `encode_prompts` gave for these requests; None encodes now.

    Raises:
        ConfigError: A size that the model's latents cannot have.
        NumericsError: A picture came out as NaN or infinity.
    """
    _check_sizes(model, requests)
    if conditionings is None:
        conditionings = encode_prompts(model, requests)
    with _borrowing(model, "unet"):
        latents = [sample_latents(model, request, conditionings) for request in requests]
    with _borrowing(model, "vae"):
        return [_to_image(model.decode_latents(latent)) for latent in latents]


def encode_prompts(model: DiffusionModel, requests: Sequence[PictureRequest]) -> dict[str, Conditioning]:
    """Encode every text of the requests once: text to conditioning of batch size 1."""
    with _borrowing(model, "text_encoder"):
        texts = dict.fromkeys(text for request in requests for text in request.texts())
        return {text: model.encode_prompt([text]) for text in texts}


@torch.no_grad()
def sample_latents(model: DiffusionModel, request: PictureRequest, conditionings: Mapping[str, Conditioning]) -> Tensor:
    """Draw one picture's latents, (1, C, h, w) float32, with the UNet loaded and in the mode it is in."""
    scheduler = make_scheduler(request.sampler, model.schedule, model.prediction, request.steps)
    condition = join_conditionings([conditionings[text] for text in request.texts()])
    noise_arguments = _noise_arguments(request)
    x_t = _initial_noise(model, request) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        prediction = _predict(model, scheduler.scale_model_input(x_t, timestep), timestep, condition, request.cfg)
        x_t = scheduler.step(prediction, timestep, x_t, **noise_arguments).prev_sample
    if not torch.isfinite(x_t).all():
        raise NumericsError(
            f"the picture of {request.prompt!r} came out as NaN", hint="lower train.lr, or choose train.precision=fp32"
        )
    latents: Tensor = x_t
    return latents


def _predict(model: DiffusionModel, x_t: Tensor, timestep: Tensor, condition: Conditioning, cfg: float) -> Tensor:
    batch = condition.hidden.shape[0]
    timesteps = timestep.round().long().expand(batch).to(x_t.device)
    prediction = model.denoise(x_t.expand(batch, -1, -1, -1), timesteps, condition)
    if model.prediction == "sample":
        prediction = velocity_of_sample(model.schedule, x_t, prediction, timesteps)
    if batch == 1:
        return prediction
    without, wanted = prediction.chunk(2)
    return without + cfg * (wanted - without)


def _initial_noise(model: DiffusionModel, request: PictureRequest) -> Tensor:
    factor = model.latent_factor
    shape = (1, model.latent_channels, request.size.height // factor, request.size.width // factor)
    return torch.randn(shape, generator=derive_generator(request.seed, "picture")).to(model.source.device)


def _noise_arguments(request: PictureRequest) -> dict[str, Any]:
    if request.sampler != "euler_a":
        return {}
    return {"generator": derive_generator(request.seed, "picture", "ancestral")}


def _to_image(pixels: Tensor) -> Image.Image:
    levels = ((pixels[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def _check_sizes(model: DiffusionModel, requests: Sequence[PictureRequest]) -> None:
    problems = Problems(ConfigError)
    for size in dict.fromkeys(request.size for request in requests):
        if min(size) <= 0 or any(side % model.latent_factor for side in size):
            problems.add(f"a picture cannot have {size} px", hint=f"sides are multiples of {model.latent_factor}")
    problems.raise_if_any()


@contextmanager
def _borrowing(model: DiffusionModel, part: Part) -> Iterator[None]:
    was_loaded = model.is_loaded(part)
    model.load(part)
    try:
        with evaluating(model.part(part)):
            yield
    finally:
        if not was_loaded:
            model.unload(part)
