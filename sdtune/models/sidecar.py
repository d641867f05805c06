"""The `NAME.yaml` beside a checkpoint `NAME.safetensors`: A1111 and Forge build the model that it describes.

Without one they take a model to predict noise, but for SD2. Both layouts are read: that of `ldm` (SD1, SD2), where
`model.params.parameterization` tells, and that of `sgm` (SDXL), where the class of a `scaling_config` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdtune.config.yaml import read_file
from sdtune.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sdtune.config.tree import Node
    from sdtune.models.base import Prediction

_PARAMETERIZATION: Mapping[str, Prediction] = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}
_SCALING: Mapping[str, Prediction] = {"VScaling": "v_prediction", "EpsScaling": "epsilon"}
_LATENT_DIFFUSION = "LatentDiffusion"  # predicts noise unless told otherwise
_BASE, _TARGET = ("model", "params", "parameterization"), ("model", "target")
_DENOISER = ("model", "params", "denoiser_config", "params", "scaling_config", "target")


_SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a `.yaml` beside a checkpoint says.

    Attributes:
        path: The file.
        prediction: What the UNet predicts; None: it does not say, e.g. since it is no model's configuration.
    """

    path: Path
    prediction: Prediction | None


def sidecar_path(path: Path) -> Path:
    """Tell where A1111 looks for a checkpoint's configuration: the last suffix is replaced."""
    return path.with_suffix(".yaml")


def read_sidecar(path: Path) -> Sidecar | None:
    """Read the configuration beside a checkpoint, or None where there is none; folders have none.

    Raises:
        ModelError: It cannot be read, or it describes a model that predicts something else.
    """
    place = sidecar_path(path)
    if path.is_dir() or not place.is_file():
        return None
    try:
        node = read_file(place)
    except ConfigError as error:
        raise ModelError(
            f"the model's configuration cannot be read: {error}", hint="mend it, or put it elsewhere"
        ) from error
    return Sidecar(path=place, prediction=_prediction(node, place))


def _prediction(node: Node, place: Path) -> Prediction | None:
    if scaling := _text(node, _DENOISER):
        return _lookup(_SCALING, scaling.rpartition(".")[2], place)
    if parameterization := _text(node, _BASE):
        return _lookup(_PARAMETERIZATION, parameterization, place)
    return "epsilon" if _text(node, _TARGET).endswith(_LATENT_DIFFUSION) else None


def _text(node: Node, path: tuple[str, ...]) -> str:
    found = node.find(path)
    return found.value if found is not None and isinstance(found.value, str) else ""


def _lookup(known: Mapping[str, Prediction], found: str, place: Path) -> Prediction:
    if found not in known:
        raise ModelError(
            f"the model predicts {found!r}; only 'epsilon', 'v_prediction' and 'sample' are trained", where=str(place)
        )
    return known[found]


def encode_sidecar(
    family: str, *, unet: Mapping[str, Any], vae: Mapping[str, Any], scaling_factor: float, prediction: Prediction
) -> bytes:
    """Write a complete configuration of a model, as A1111 needs it: every class, with its sizes.

    Args:
        family: `sd1`, `sd2` or `sdxl`.
        unet: Arguments of diffusers' `UNet2DConditionModel`.
        vae: Arguments of diffusers' `AutoencoderKL`.
        scaling_factor: Of the latents.
        prediction: What the UNet predicts.
    """
    import yaml

    is_v = prediction == "v_prediction"
    if family == "sdxl":
        model = _sgm_model(_unet_params(unet), _vae_params(vae), scaling_factor, is_v=is_v)
    else:
        model = _ldm_model(family, _unet_params(unet), _vae_params(vae), scaling_factor, is_v=is_v)
    text: str = yaml.safe_dump({"model": model}, sort_keys=False)
    return text.encode()


def _ldm_model(
    family: str, unet: dict[str, Any], vae: dict[str, Any], scaling_factor: float, *, is_v: bool
) -> dict[str, Any]:
    """Describe a `LatentDiffusion` of SD1 or SD2."""
    params = {
        "parameterization": "v" if is_v else "eps",
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "num_timesteps_cond": 1,
        "log_every_t": 200,
        "timesteps": 1000,
        "first_stage_key": "jpg",
        "cond_stage_key": "txt",
        "image_size": 64,
        "channels": vae["embed_dim"],
        "cond_stage_trainable": False,
        "conditioning_key": "crossattn",
        "monitor": "val/loss_simple_ema",
        "scale_factor": scaling_factor,
        "use_ema": False,
    }
    unet = {"use_checkpoint": False, "image_size": 32, **unet}
    return {
        "target": "ldm.models.diffusion.ddpm.LatentDiffusion",
        "params": {
            **params,
            "unet_config": _object("ldm.modules.diffusionmodules.openaimodel.UNetModel", unet),
            "first_stage_config": _object("ldm.models.autoencoder.AutoencoderKL", vae),
            "cond_stage_config": _ldm_text(family),
        },
    }


def _ldm_text(family: str) -> dict[str, Any]:
    modules = "ldm.modules.encoders.modules"
    if family == "sd1":
        return {"target": f"{modules}.FrozenCLIPEmbedder"}
    return _object(f"{modules}.FrozenOpenCLIPEmbedder", {"freeze": True, "layer": "penultimate"})


def _sgm_model(unet: dict[str, Any], vae: dict[str, Any], scaling_factor: float, *, is_v: bool) -> dict[str, Any]:
    """Describe a `DiffusionEngine` of SDXL."""
    modules, kind = "sgm.modules.diffusionmodules", "V" if is_v else "Eps"
    denoiser = {
        "num_idx": 1000,
        "weighting_config": {"target": f"{modules}.denoiser_weighting.{kind}Weighting"},
        "scaling_config": {"target": f"{modules}.denoiser_scaling.{kind}Scaling"},
        "discretization_config": {"target": f"{modules}.discretizer.LegacyDDPMDiscretization"},
    }
    unet = {"use_checkpoint": False, "num_classes": "sequential", "spatial_transformer_attn_type": "softmax", **unet}
    return {
        "target": "sgm.models.diffusion.DiffusionEngine",
        "params": {
            "scale_factor": scaling_factor,
            "disable_first_stage_autocast": True,
            "denoiser_config": _object(f"{modules}.denoiser.DiscreteDenoiser", denoiser),
            "network_config": _object(f"{modules}.openaimodel.UNetModel", unet),
            "conditioner_config": _object("sgm.modules.GeneralConditioner", {"emb_models": _sgm_embedders()}),
            "first_stage_config": _object("sgm.models.autoencoder.AutoencoderKLInferenceWrapper", vae),
        },
    }


def _sgm_embedders() -> list[dict[str, Any]]:
    """List what SDXL is told, in the order of the pooled vector: texts, then sizes and the crop."""
    modules = "sgm.modules.encoders.modules"
    second = {"arch": "ViT-bigG-14", "version": "laion2b_s39b_b160k", "freeze": True, "layer": "penultimate"}
    second |= {"always_return_pooled": True, "legacy": False}
    embedders: list[tuple[str, str, dict[str, Any]]] = [
        ("txt", "FrozenCLIPEmbedder", {"layer": "hidden", "layer_idx": 11}),
        ("txt", "FrozenOpenCLIPEmbedder2", second),
        *((key, "ConcatTimestepEmbedderND", {"outdim": 256}) for key in _SIZES),
    ]
    return [
        {"is_trainable": False, "input_key": key, **_object(f"{modules}.{name}", params)}
        for key, name, params in embedders
    ]


def _unet_params(config: Mapping[str, Any]) -> dict[str, Any]:
    widths = config["block_out_channels"]
    heads, depth = config["attention_head_dim"], config.get("transformer_layers_per_block", 1)
    attention = [2**level for level, kind in enumerate(config["down_block_types"]) if kind.startswith("CrossAttn")]
    each = {"num_heads": heads} if isinstance(heads, int) else {"num_head_channels": widths[0] // heads[0]}
    pooled = config.get("projection_class_embeddings_input_dim")
    return {
        **({"adm_in_channels": pooled} if pooled else {}),
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "attention_resolutions": attention[::-1],
        "num_res_blocks": config["layers_per_block"],
        "channel_mult": [width // widths[0] for width in widths],
        **each,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": bool(config.get("use_linear_projection")),
        "transformer_depth": depth if isinstance(depth, int) else list(depth),
        "context_dim": config["cross_attention_dim"],
        "legacy": False,
    }


def _vae_params(config: Mapping[str, Any]) -> dict[str, Any]:
    widths = config["block_out_channels"]
    return {
        "embed_dim": config.get("latent_channels", 4),
        "monitor": "val/rec_loss",
        "ddconfig": {
            "double_z": True,
            "z_channels": config.get("latent_channels", 4),
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": widths[0],
            "ch_mult": [width // widths[0] for width in widths],
            "num_res_blocks": config["layers_per_block"],
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        "lossconfig": {"target": "torch.nn.Identity"},
    }


def _object(target: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"target": target, "params": params}
