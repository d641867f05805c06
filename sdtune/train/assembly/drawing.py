"""Regularization images that are missing, drawn by the base model before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune.data.caches.tensor_store import content_key
from sdtune.files import write_text
from sdtune.paths import user_cache_folder
from sdtune.sampling.grid import save_picture
from sdtune.sampling.request import PictureRequest
from sdtune.sampling.sampler import encode_prompts, sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sdtune.config.regularization import GenerateOptions
    from sdtune.data.index.missing import MissingImage
    from sdtune.models.base import DiffusionModel


def drawing_folder(model: DiffusionModel, prompt: str, resolution: str | None) -> Path:
    """Name the folder in the user's cache for images drawn by a prompt: one for each model, prompt and resolution."""
    key = content_key("regularization", model.part_digest("unet"), prompt, resolution or "")
    return user_cache_folder() / "regularization" / f"{model.source.name}-{key[:12]}"


def draw_missing(
    model: DiffusionModel,
    missing: Sequence[MissingImage],
    options: GenerateOptions,
    on_progress: Callable[[str, int, int], None],
) -> None:
    """Draw images one by one, each with its prompt beside it; what is drawn stays when the rest is stopped.

    Args:
        model: The base model, with nothing attached.
        missing: What to draw; the same request gives the same picture.
        options: How.
        on_progress: Called with what is done, how many are done, and of how many; it may raise to stop.

    Raises:
        PlatformError: A file cannot be written.
    """
    requests = [_request(item, options) for item in missing]
    texts = encode_prompts(model, requests)
    model.unload("text_encoder")
    for part in ("unet", "vae"):
        model.load(part)
    for done, (item, request) in enumerate(zip(missing, requests, strict=True), start=1):
        (picture,) = sample(model, [request], conditionings=texts)
        item.path.parent.mkdir(parents=True, exist_ok=True)
        # the prompt first: an image that is there is complete
        write_text(item.path.with_suffix(".txt"), item.prompt + "\n", overwrite=True)
        save_picture(item.path, picture, [request])
        on_progress("regularization images", done, len(missing))


def _request(item: MissingImage, options: GenerateOptions) -> PictureRequest:
    return PictureRequest(
        prompt=item.prompt,
        negative=options.negative,
        seed=options.seed + item.number,
        size=item.size,
        steps=options.steps,
        cfg=options.cfg,
        sampler=options.sampler,
    )
