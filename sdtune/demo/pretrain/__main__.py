"""Command line of the demo model's training: python -m sdtune.demo.pretrain --help."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from sdtune.demo.pretrain.vae import train_vae

STAGES = ("vae",)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sdtune.demo.pretrain", description=__doc__)
    parser.add_argument("stages", nargs="*", default=STAGES, help=f"which stages to run, of: {' '.join(STAGES)} (all)")
    parser.add_argument("--work", type=Path, required=True, help="folder for pools, checkpoints and timings.json")
    parser.add_argument("--device", default="cpu", help="torch device, such as cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--vae-steps", type=int, default=2600)
    return parser.parse_args()


def main() -> None:
    """Run the chosen stages in order; each resumes from the work folder."""
    options = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    if "vae" in options.stages:
        train_vae(options.work, steps=options.vae_steps, batch=32, lr=2e-3, device=device)


if __name__ == "__main__":
    main()
