"""What an exported file says about itself: kohya's `ss_*`, ModelSpec 1.0.1, and the run's configuration.

Every value is a string, nested data is JSON, `None` and `True` are spelled as Python spells them: so kohya's scripts
write them, and so A1111, Forge and ComfyUI read them. No folder above a file, user or host name gets in.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from sdtune import __version__
from sdtune.config.optimizers import find_entry
from sdtune.config.rates import count_steps
from sdtune.data.index.regularization import PREFIX
from sdtune.data.order.pool import visits_of
from sdtune.models.architecture import FAMILIES
from sdtune.randomness import derive_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sdtune.config.optimizer import OptimizerOptions
    from sdtune.data.types import ImageRecord, Size, Subset
    from sdtune.export.artifact import Artifact
    from sdtune.train.info import RunInfo

_STABILITY = "https://github.com/Stability-AI/generative-models"


@dataclass(frozen=True, slots=True)
class _Names:
    """How kohya's scripts and ModelSpec call a family, for each prediction."""

    version: str
    version_v: str
    architecture: str
    architecture_v: str
    lora_implementation: str = "diffusers"


_FAMILIES = {
    "sd1": _Names("sd_v1", "sd_v1_v", "stable-diffusion-v1", "stable-diffusion-v1"),
    "sd2": _Names("sd_v2", "sd_v2_v", "stable-diffusion-v2-512", "stable-diffusion-v2-768-v"),
    "sdxl": _Names(
        "sdxl_base_v1-0", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-base", _STABILITY
    ),
}

# Options of kohya's scripts that sdtune has not: the value there that means what sdtune does.
_ABSENT_OPTIONS = {
    "caption_dropout_every_n_epochs": 0,
    "color_aug": False,
    "face_crop_aug_range": None,
    "fp8_base": False,
    "full_fp16": False,
    "lowram": False,
    "num_validation_images": 0,
    "random_crop": False,
    "scale_weight_norms": None,
}


def build_metadata(artifact: Artifact, info: RunInfo, *, with_captions: bool = True) -> dict[str, str]:
    """List all metadata but the hashes, which need the final bytes.

    Args:
        artifact: The file to be; its own entries win.
        info: The run.
        with_captions: Count the captions' tags (`ss_tag_frequency`): webuis offer them as trigger words.
    """
    kohya = {
        **_ABSENT_OPTIONS,
        **_describe_model(artifact, info),
        **_describe_progress(info),
        **_describe_options(info),
        **_describe_objective(info),
        **_describe_data(info, with_captions=with_captions),
    }
    entries = {
        **{f"ss_{name}": _spell(value) for name, value in kohya.items()},
        **{f"modelspec.{name}": value for name, value in _describe_modelspec(artifact, info).items() if value},
        "sdtune_version": __version__,
        "sdtune_config": json.dumps(_describe_config(info), ensure_ascii=False),
        **artifact.metadata,
    }
    return {name: _hide_home(value) for name, value in entries.items()}


def count_tags(images: Iterable[ImageRecord]) -> dict[str, dict[str, int]]:
    """Count the comma-separated tags of each folder's captions, lower case: folder name to tag to images."""
    counts: dict[str, Counter[str]] = {}
    for image in images:
        tags = (tag.strip().lower() for tag in image.caption.split(","))
        counts.setdefault(image.subset.name, Counter()).update(tag for tag in tags if tag)
    return {folder: dict(counter) for folder, counter in counts.items()}


def _describe_model(artifact: Artifact, info: RunInfo) -> dict[str, Any]:
    names = _names(info.family)
    digests = {"sd_model_hash": info.base_legacy_digest, "new_sd_model_hash": info.base_digest}
    return {
        "output_name": artifact.stem,
        "base_model_version": names.version_v if _is_v(info) else names.version,
        "v2": info.family == "sd2",
        "sd_model_name": info.base_name,
        "clip_skip": _asked_clip_skip(info),
        "zero_terminal_snr": info.zero_terminal_snr,
        **{name: digest for name, digest in digests.items() if digest},
    }


def _describe_progress(info: RunInfo) -> dict[str, Any]:
    return {
        "session_id": derive_seed(info.config.train.seed, "session", info.name, str(info.started_at)) % 2**32,
        "training_started_at": float(info.started_at),
        "training_finished_at": float(info.finished_at),
        "steps": info.step,
        "epoch": info.epoch,
        "max_train_steps": info.total_steps,
        "num_epochs": info.total_epochs,
        "num_batches_per_epoch": info.batches_per_epoch,
        "training_comment": info.config.output.comment or None,
    }


def _describe_options(info: RunInfo) -> dict[str, Any]:
    data, train = info.config.data, info.config.train
    return {
        **_describe_rates(info),
        "optimizer": _describe_optimizer(train.optimizer),
        "lr_scheduler": train.schedule.name,
        "lr_warmup_steps": count_steps(train.schedule.warmup, info.total_steps),
        "max_grad_norm": train.max_grad_norm,
        "mixed_precision": "no" if train.precision == "fp32" else train.precision,
        "gradient_checkpointing": train.gradient_checkpointing,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "batch_size_per_device": train.batch_size,
        "total_batch_size": train.batch_size * train.gradient_accumulation,
        "seed": train.seed,
        "cache_latents": data.cache.latents != "off",
        "caption_dropout_rate": data.caption_dropout,
        "caption_tag_dropout_rate": data.tag_dropout,
        "flip_aug": data.flip,
        "shuffle_caption": data.shuffle_tags,
        "keep_tokens": data.keep_tags,
        "enable_bucket": data.buckets.enabled,
        "bucket_no_upscale": data.buckets.no_upscale,
        "min_bucket_reso": data.buckets.min_px if data.buckets.enabled else None,
        "max_bucket_reso": data.buckets.max_px if data.buckets.enabled else None,
        "resolution": data.size_px,
    }


def _describe_rates(info: RunInfo) -> dict[str, Any]:
    """Tell the rates that were used: the one of most numbers, and those of each part; several are a list there."""
    by_part = {part: [rate for own, rate in info.rates if own == part] for part in ("unet", "text_encoder")}
    told = {part: f"[{', '.join(rates)}]" if len(rates) > 1 else "".join(rates) for part, rates in by_part.items()}
    return {
        "learning_rate": info.rates[0][1] if info.rates else info.config.train.lr,
        "unet_lr": told["unet"] or None,
        "text_encoder_lr": told["text_encoder"] or None,
    }


def _describe_objective(info: RunInfo) -> dict[str, Any]:
    """Name the objective as kohya's scripts do; `None` is off there. What they have not stands in `sdtune_config`."""
    loss, noise = info.config.loss, info.config.noise
    has_offset = bool(noise.offset or noise.offset_adaptive)
    is_bent = loss.type in ("huber", "smooth_l1")
    has_masks = info.config.data.alpha_weight or any(image.mask is not None for image in info.images)
    return {
        "loss_type": loss.type,
        "huber_schedule": loss.huber_schedule if is_bent else None,
        "huber_c": loss.huber_c if is_bent else None,
        "huber_scale": loss.huber_scale if is_bent else None,
        "min_snr_gamma": loss.min_snr_gamma,
        "debiased_estimation": loss.debiased,
        "scale_v_pred_loss_like_noise_pred": loss.scale_v_like_noise,
        "v_pred_like_loss": loss.v_like,
        "masked_loss": has_masks,
        "noise_offset": noise.offset if has_offset else None,
        "noise_offset_random_strength": noise.offset_random,
        "adaptive_noise_scale": noise.offset_adaptive or None,
        "multires_noise_iterations": noise.pyramid_levels or None,
        "multires_noise_discount": noise.pyramid_discount if noise.pyramid_levels else None,
        "ip_noise_gamma": noise.perturbation or None,
        "ip_noise_gamma_random_strength": noise.perturbation_random,
    }


def _describe_data(info: RunInfo, *, with_captions: bool) -> dict[str, Any]:
    tags = {"tag_frequency": count_tags(info.images)} if with_captions else {}
    return {
        "num_train_images": _count_visits(info.images),
        "dataset_dirs": _describe_folders(image.subset for image in info.images),
        "num_reg_images": _count_visits(info.regularization),
        "reg_dataset_dirs": _describe_folders(image.subset for image in info.regularization),
        "prior_loss_weight": info.config.regularization.weight,
        "bucket_info": _describe_buckets(info.buckets),
        **tags,
    }


def _describe_modelspec(artifact: Artifact, info: RunInfo) -> dict[str, str]:
    names, train = _names(info.family), info.config.train
    width, height = info.config.data.size_px
    return {
        "sai_model_spec": "1.0.1",
        "architecture": (names.architecture_v if _is_v(info) else names.architecture) + artifact.architecture_suffix,
        "implementation": names.lora_implementation if artifact.kind == "lora" else _STABILITY,
        "title": artifact.stem,
        "description": info.config.output.comment,
        "resolution": f"{width}x{height}",
        "date": datetime.fromtimestamp(int(info.finished_at), UTC).isoformat(),
        "prediction_type": {"v_prediction": "v"}.get(info.prediction, info.prediction),
        "timestep_range": f"{train.min_timestep},{train.max_timestep}",
        "encoder_layer": str(info.clip_skip),
        "trigger_phrase": info.trigger,
    }


def _describe_optimizer(options: OptimizerOptions) -> str:
    """Write class and arguments as kohya's scripts do: `torch.optim.adamw.AdamW(weight_decay=0.1)`."""
    entry = find_entry(options.name)
    args = {**entry.args, **options.common, **options.args}
    listed = ",".join(f"{name}={value}" for name, value in args.items())
    return f"{entry.dotted}({listed})" if listed else entry.dotted


def _count_visits(images: Iterable[ImageRecord]) -> int:
    """Count images times repeats, those of each folder rounded."""
    counts = Counter(image.subset for image in images)
    return sum(visits_of(subset.repeats, count) for subset, count in counts.items())


def _describe_folders(subsets: Iterable[Subset]) -> dict[str, dict[str, float]]:
    folders: dict[str, dict[str, float]] = {}
    for subset in subsets:
        repeats = int(subset.repeats) if subset.repeats % 1 == 0 else subset.repeats
        folder = folders.setdefault(subset.name.removeprefix(PREFIX), {"n_repeats": repeats, "img_count": 0})
        folder["img_count"] += 1
    return folders


def _describe_buckets(buckets: Mapping[Size, int]) -> dict[str, Any]:
    entries = ({"resolution": list(size), "count": count} for size, count in sorted(buckets.items()))
    return {"buckets": {str(index): entry for index, entry in enumerate(entries)}}


def _describe_config(info: RunInfo) -> Any:
    config = info.config.model_dump()
    config["model"]["path"] = info.base_name
    return _without_folders(config)


def _asked_clip_skip(info: RunInfo) -> int | None:
    """Give what a user of a webui must set.

    Programs leave out SD2's and SDXL's last layer unasked, and kohya's scripts write None then. A1111 shows any number
    as "Clip skip", and a user who sets it changes nothing there, but every picture of SD1 afterwards.
    """
    family = FAMILIES.get(info.family)
    is_own = family is not None and info.clip_skip == family.clip_skip > 1
    return None if is_own else info.clip_skip


def _names(family: str) -> _Names:
    return _FAMILIES.get(family) or _Names(family, family, family, family)


def _is_v(info: RunInfo) -> bool:
    return info.prediction == "v_prediction"


def _spell(value: object) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = [_without_folders(item) for item in value]
        return sorted(items, key=str) if isinstance(value, set | frozenset) else items
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, str):
        return _last_part(value)
    return value if isinstance(value, int | float | None) else str(value)


def _last_part(text: str) -> str:
    for path in (PurePosixPath(text), PureWindowsPath(text)):
        if path.is_absolute():
            return path.name
    return text


def _hide_home(text: str) -> str:
    home = os.path.expanduser("~").rstrip("/\\")  # noqa: PTH111  # Path.home() raises where there is no home
    return text.replace(f"{home}{os.sep}", "~/") if home else text
