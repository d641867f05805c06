"""The ship stage: all parts as one diffusers folder of fp16 safetensors."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTokenizer

from sdtune.demo.pretrain.loop import Schedule, Stage
from sdtune.demo.pretrain.unet import new_unet

if TYPE_CHECKING:
    from pathlib import Path


def checkpointed_unet(work: Path) -> UNet2DConditionModel:
    """Return the EMA weights of the UNet's newest checkpoint, finished or not."""
    stage = Stage("unet", new_unet(), Schedule(steps=1, lr=0.0, ema_decay=0.5), work)
    stage.resume()
    return stage.ema


def ship(work: Path, folder: Path) -> None:
    """Write the pipeline folder of the newest weights, rounded to fp16."""
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", use_karras_sigmas=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "vae").half(),
        text_encoder=CLIPTextModel.from_pretrained(work / "text_encoder").half(),
        tokenizer=CLIPTokenizer.from_pretrained(work / "tokenizer"),
        unet=checkpointed_unet(work).half(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    _name_text_weights_classically(folder / "text_encoder" / "model.safetensors")
    for name in ("vocab.json", "merges.txt"):  # transformers 5 writes tokenizer.json alone
        shutil.copyfile(work / "tokenizer" / name, folder / "tokenizer" / name)
    _forget_origin(folder / "vae" / "config.json")


def _forget_origin(path: Path) -> None:
    """Drop the folder a config was read from: it means nothing elsewhere."""
    config = json.loads(path.read_text())
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _name_text_weights_classically(path: Path) -> None:
    """Prefix the text weights with "text_model.", as every SD1 file has it.

    transformers 5 writes them without and reads both; transformers 4 reads the prefixed form alone.
    """
    weights = load_file(path)
    prefix = "text_model."
    save_file(
        {name if name.startswith(prefix) else prefix + name: value for name, value in weights.items()},
        path,
        metadata={"format": "pt"},
    )
