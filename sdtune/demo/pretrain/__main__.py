"""Command line of the demo model's training: python -m sdtune.demo.pretrain --help."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

from sdtune.demo.pretrain.judge import train_judge
from sdtune.demo.pretrain.pool import Pool, encode_captions, encode_pictures, text_states
from sdtune.demo.pretrain.ship import ship
from sdtune.demo.pretrain.text import train_text
from sdtune.demo.pretrain.tokenizer import make_tokenizer
from sdtune.demo.pretrain.unet import train_unet
from sdtune.demo.pretrain.vae import train_decoder, train_vae

STAGES = ("vae", "text", "judge", "latents", "states", "unet", "decoder", "ship")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sdtune.demo.pretrain",
        description="Train the demo model. Every stage resumes from the work folder.",
    )
    parser.add_argument("stages", nargs="*", default=STAGES, help=f"which stages to run, of: {' '.join(STAGES)} (all)")
    parser.add_argument("--work", type=Path, required=True, help="folder for pools, checkpoints and timings.json")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--vae-steps", type=int, default=3600, help="batches of 16 pictures")
    parser.add_argument("--text-steps", type=int, default=700, help="batches of 64 captions")
    parser.add_argument("--judge-steps", type=int, default=950, help="batches of 96 drawings")
    parser.add_argument("--unet-steps", type=int, default=1950, help="batches of 64 latents")
    parser.add_argument("--decoder-steps", type=int, default=900, help="batches of 16 pictures")
    parser.add_argument("--scenes", type=int, default=32_000, help="scenes in the pool of the UNet")
    parser.add_argument("--model", type=Path, help="folder the stage ship writes (WORK/model)")
    return parser.parse_args()


def _run(options: argparse.Namespace, stage: str) -> None:
    work, device = options.work, torch.device(options.device)
    tokenizer = make_tokenizer(work)
    if stage == "vae":
        train_vae(work, steps=options.vae_steps, device=device)
    elif stage == "text":
        train_text(work, tokenizer, steps=options.text_steps, device=device)
    elif stage == "judge":
        train_judge(work, steps=options.judge_steps)
    elif stage == "latents":
        encode_pictures(work, _load_vae(work, device), options.scenes, device)
    elif stage == "states":
        encode_captions(work, _load_text(work, device), tokenizer, options.scenes, device)
    elif stage == "unet":
        model = _load_text(work, device)
        pool = Pool(
            posterior=encode_pictures(work, _load_vae(work, device), options.scenes, device),
            states=encode_captions(work, model, tokenizer, options.scenes, device),
            empty=text_states(model, tokenizer, [""], device)[0].half(),
        )
        train_unet(work, pool, steps=options.unet_steps, device=device)
    elif stage == "decoder":
        train_decoder(work, steps=options.decoder_steps, device=device)
    elif stage == "ship":
        ship(work, options.model or work / "model")


def _load_vae(work: Path, device: torch.device) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(work / "vae").to(device)


def _load_text(work: Path, device: torch.device) -> CLIPTextModel:
    return CLIPTextModel.from_pretrained(work / "text_encoder").to(device)


def main() -> None:
    """Run the chosen stages in order; each resumes from the work folder."""
    options = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    for stage in options.stages:
        if stage not in STAGES:
            raise SystemExit(f"no stage named {stage!r}; stages: {', '.join(STAGES)}")
        _run(options, stage)


if __name__ == "__main__":
    main()
