"""A picture that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sdtune.data.types import Size

SamplerName = Literal["dpmpp_2m_karras", "euler_a", "ddim"]

_WEBUI_NAMES: dict[SamplerName, tuple[str, str]] = {
    "dpmpp_2m_karras": ("DPM++ 2M", "Karras"),
    "euler_a": ("Euler a", "Automatic"),
    "ddim": ("DDIM", "Automatic"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRequest:
    """What to draw, and how; equal requests give equal pictures.

    Attributes:
        prompt: What is wanted.
        negative: What is not wanted; without guidance (`cfg` 1) it has no effect.
        seed: Seed of all noise.
        size: Size in px, multiples of the model's `latent_factor`.
        steps: Sampling steps, at least 1.
        cfg: Guidance scale, at least 1; 1 is no guidance.
        sampler: Sampler.
    """

    prompt: str
    negative: str = ""
    seed: int = 1
    size: Size
    steps: int = 20
    cfg: float = 7.0
    sampler: SamplerName = "dpmpp_2m_karras"

    def texts(self) -> tuple[str, ...]:
        """List the texts the picture needs encoded: negative and prompt, or the prompt alone."""
        return (self.negative, self.prompt) if self.cfg > 1 else (self.prompt,)


def format_infotext(request: PictureRequest) -> str:
    """Write a request as A1111 writes `parameters` into its PNGs, so that its PNG Info tab reads it."""
    sampler, schedule = _WEBUI_NAMES[request.sampler]
    negative = f"\nNegative prompt: {request.negative}" if request.negative else ""
    return (
        f"{request.prompt}{negative}\nSteps: {request.steps}, Sampler: {sampler}, Schedule type: {schedule}, "
        f"CFG scale: {request.cfg:g}, Seed: {request.seed}, Size: {request.size}"
    )
