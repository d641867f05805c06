"""Another VAE in the place of the model's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sdtune.errors import ModelError
from sdtune.models import naming
from sdtune.models.detect import describe
from sdtune.models.storage import StoredPart, read_json
from sdtune.models.weights import WEIGHT_SUFFIXES, find_weights, open_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sdtune.models.architecture import SDFamily
    from sdtune.models.storage import StoredModel
    from sdtune.models.tensors import TensorFile

_WEIGHTS = "diffusion_pytorch_model"
_PREFIXES = (naming.WEBUI_PREFIX["vae"], "vae.", "")
_OPTION = "model.vae"
_LATENT_CHANNELS = 4


def replace_vae(storage: StoredModel, path: Path | None, family: SDFamily) -> StoredModel:
    """Put another VAE into a model's place for one; None leaves its own.

    Raises:
        ModelError: See `open_vae`.
    """
    if path is None:
        return storage
    own = storage.components.get("vae")
    scaling_factor = family.scaling_factor if own is None else own.config.get("scaling_factor", family.scaling_factor)
    other = open_vae(path, latent_channels=_LATENT_CHANNELS, scaling_factor=scaling_factor)
    return replace(storage, components={**storage.components, "vae": other})


def name_of(path: Path | None) -> str:
    """Name another VAE for the plan; nothing where the model has its own."""
    return f", VAE of {path.name}" if path else ""


def open_vae(path: Path, *, latent_channels: int, scaling_factor: float) -> StoredPart:
    """Open a VAE by its header: a file as webui's `models/VAE` has them, or a diffusers folder.

    Files hold bare names (`encoder.conv_in.weight`), or those of a whole model, of which the VAE is taken; ldm's names
    or diffusers'.

    Args:
        path: The file, the VAE's folder (diffusers', or any with a single file of weights), or a pipeline's folder.
        latent_channels: Channels of the model's latents.
        scaling_factor: Of the model's latents.

    Raises:
        ModelError: It is none, or one of another kind of model.
    """
    file = open_weights(_find(path.expanduser()))
    config = read_json(file.path.parent / "config.json") if path.expanduser().is_dir() else {}
    names = _canonical_names(file)
    if "decoder.conv_in.weight" not in names or "encoder.conv_in.weight" not in names:
        raise ModelError(f"{path.name} is no VAE; it holds {describe(file.shapes)}", where=_OPTION)
    channels = file.shapes[names["decoder.conv_in.weight"]][1]
    own_factor = config.get("scaling_factor", scaling_factor)
    if channels != latent_channels or own_factor != scaling_factor:
        raise ModelError(
            f"{path.name} is the VAE of another kind of model: "
            f"{channels} latent channels (not {latent_channels}), scaled by {own_factor} (not {scaling_factor})",
            where=_OPTION,
        )
    entries = {new: file.entries[old] for new, old in names.items()}
    return StoredPart(component="vae", file=file, entries=entries, config=config)


def _find(path: Path) -> Path:
    if not path.exists():
        raise ModelError(f"there is no VAE {path}", where=_OPTION, hint="give a file or a diffusers folder")
    if not path.is_dir():
        return path
    inner = path / "vae"
    folder = inner if inner.is_dir() else path
    files = [file for file in folder.iterdir() if file.suffix.lower() in WEIGHT_SUFFIXES]
    return files[0] if len(files) == 1 else find_weights(folder, _WEIGHTS)


def _canonical_names(file: TensorFile) -> dict[str, str]:
    """Map diffusers' names of a VAE to the names in a file."""
    prefix = next(prefix for prefix in _PREFIXES if not prefix or f"{prefix}decoder.conv_in.weight" in file.entries)
    own = [name.removeprefix(prefix) for name in file.entries if name.startswith(prefix)]
    is_diffusers = any(name.startswith("decoder.up_blocks.") for name in own)
    rename: Callable[[str], str] = (
        naming.modern_vae_name if is_diffusers else naming.vae_renaming(naming.vae_levels(own)).inverse
    )
    return {new: prefix + name for name in own if (new := _renamed(rename, name))}


def _renamed(rename: Callable[[str], str], name: str) -> str:
    try:
        return rename(name)
    except KeyError:  # what only training needed: the loss, averaged weights
        return ""
