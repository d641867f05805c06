"""The VAE at work: pictures to latents and back, in half precision where its numbers fit into that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from sdtune.models import build
from sdtune.models.base import Posterior

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from sdtune.models.architecture import SDFamily
    from sdtune.models.storage import StoredPart

    Compute = Callable[[Any, Tensor], tuple[Tensor, ...]]

logger = logging.getLogger(__name__)


class Autoencoder:
    """A model's VAE at work.

    A picture whose numbers half precision cannot hold is computed again in float32: that picture, alone, and no other.
    So an answer depends on the picture, the weights and `dtype`, and not on what was computed before it or with it.

    Args:
        stored: The VAE as stored.
        family: The model's family.
        dtype: What the rest of the model is computed in.
        device: Where it lives.

    Attributes:
        dtype: What the VAE is held and computed in.
        scaling_factor: Of the latents.
    """

    def __init__(self, stored: StoredPart, family: SDFamily, *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = choose_dtype(dtype, stored.config, overflows=family.vae_overflows)
        self.scaling_factor = float(stored.config.get("scaling_factor", family.scaling_factor))
        self._stored = stored
        self._family = family
        self._device = device
        self._wide: nn.Module | None = None
        self._is_told = False

    def encode(self, module: nn.Module, pixels: Tensor) -> Posterior:
        """Encode (B, 3, H, W) pixels in [-1, 1] with the loaded VAE; see `DiffusionModel.encode_images`."""
        mean, std = self._run(_encode, module, pixels)
        return Posterior(mean=mean * self.scaling_factor, std=std * self.scaling_factor)

    def decode(self, module: nn.Module, latents: Tensor) -> Tensor:
        """Decode (B, 4, h, w) latents with the loaded VAE; see `DiffusionModel.decode_latents`."""
        (pixels,) = self._run(_decode, module, latents.float() / self.scaling_factor)
        return pixels.clamp(-1, 1)

    def release(self) -> None:
        """Free the memory of the weights in float32 that some pictures needed."""
        self._wide = None

    @torch.no_grad()
    def _run(self, compute: Compute, module: nn.Module, given: Tensor) -> tuple[Tensor, ...]:
        answer = compute(module, given)
        if self.dtype == torch.float32 or _is_finite(*answer):
            return answer
        for index in range(len(given)):
            own = slice(index, index + 1)
            if _is_finite(given[own]) and not _is_finite(*(tensor[own] for tensor in answer)):
                for tensor, exact in zip(answer, compute(self._widened(), given[own]), strict=True):
                    tensor[own] = exact
        return answer

    def _widened(self) -> nn.Module:
        """Give the VAE in float32, from the weights as stored; say once that it is needed."""
        if not self._is_told:
            name = str(self.dtype).removeprefix("torch.")
            logger.warning("the VAE gave NaN in %s for a picture; such pictures are computed again in float32", name)
            self._is_told = True
        if self._wide is None:
            self._wide = build.build_part(self._stored, self._family, dtype=torch.float32, device=self._device)
        return self._wide


def choose_dtype(dtype: torch.dtype, config: Mapping[str, Any], *, overflows: bool) -> torch.dtype:
    """Choose what a VAE is computed in: float32 instead of float16 where its numbers grow too large for that.

    Args:
        dtype: What the rest is computed in.
        config: The VAE's own; `force_upcast: false`, as in SDXL's repaired VAE, says that float16 will do.
        overflows: The VAEs of the family do, unless they are repaired.
    """
    is_safe = not overflows or config.get("force_upcast") is False
    return dtype if is_safe or dtype != torch.float16 else torch.float32


def _encode(module: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    """Encode (B, 3, H, W) pixels to the posterior's mean and std, both (B, C, h, w) float32, as the VAE scales them."""
    posterior = module.encode(pixels.to(module.device, module.dtype)).latent_dist
    return posterior.mean.float(), posterior.std.float()


def _decode(module: Any, latents: Tensor) -> tuple[Tensor, ...]:
    """Decode (B, C, h, w) latents, as the VAE scales them, to (B, 3, H, W) float32 pixels."""
    return (module.decode(latents.to(module.device, module.dtype), return_dict=False)[0].float(),)


def _is_finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
