"""Compare the forecast of memory with what a training really takes, each in a process of its own, on the CPU.

    python benchmarks/memory.py WORK [--wide] [--only TEXT]

Models have random weights: SD1.5 at half width, or with `--wide` at full width. WORK keeps models and results, so that
an interrupted table goes on. Prints forecast, peak of the resident size, and error.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from itertools import product
from pathlib import Path

PLUGINS = ("lora", "dreambooth", "textual_inversion", "hypernetwork")
HALF, FULL = (160, 320, 640, 640), (320, 640, 1280, 1280)
METHODS = {
    "lora r16": ("--method", "lora", "--rank", "16", "lora.text_encoder=false"),
    "hypernetwork": ("--method", "hypernetwork"),
    "textual inversion": ("--method", "textual_inversion", "--token", "zwx"),
    "dreambooth": ("--method", "dreambooth"),
}


def configurations(*, is_wide: bool) -> dict[str, tuple[str, ...]]:
    """Name the runs: every method, and for LoRA every shape; a full-width DreamBooth is too large for most machines."""
    runs = {}
    for method, words in METHODS.items():
        shapes = [(1, 256, False), (2, 512, False), (2, 512, True)]
        if method == "lora r16":
            shapes = list(product((1, 2, 4), (256, 512), (False, True)))
        if is_wide:
            shapes = [(1, 256, False), (1, 512, False), (2, 512, True)]
        for batch, side, checkpointing in shapes:
            if is_wide and method == "dreambooth":
                continue
            name = f"{method}, {batch} x {side} px{', checkpointing' if checkpointing else ''}"
            more = (f"train.gradient_checkpointing={str(checkpointing).lower()}", "output.certify=false")
            runs[name] = (*words, "--batch-size", str(batch), "--resolution", str(side), *more)
    lora = (*METHODS["lora r16"], "--resolution", "256")
    runs["lora r16, 1 x 256 px, certificate"] = (*lora, "--batch-size", "1", "--precision", "bf16")
    runs["lora r16, 1 x 256 px, previews"] = (
        *lora,
        "preview.prompts=[a dog]",
        "preview.steps=2",
        "output.certify=false",
    )
    runs["lora r16, 1 x 512 px, bf16"] = (
        *METHODS["lora r16"],
        "--resolution",
        "512",
        "--precision",
        "bf16",
        "output.certify=false",
    )
    return runs


def train(words: list[str]) -> int:
    """Train in this process."""
    from sdtune.testing.runner import command

    return command([import_module(f"sdtune_{name}") for name in PLUGINS], "train", *words)


def measure(name: str, words: tuple[str, ...], model: Path, work: Path) -> dict[str, int | str]:
    """Train in a process of its own, with caches of its own."""
    out = work / "runs" / "".join(char if char.isalnum() else "-" for char in f"{model.stem} {name}")
    record = out / "memory.json"
    if not record.exists():
        given = [
            "--model",
            str(model),
            "--data",
            str(work / "images"),
            "--output",
            str(out),
            "--steps",
            "3",
            "--overwrite",
        ]
        given += ["data.captions=class_text", "data.class_text=photo of zwx dog", "--name", "bench"]
        env = os.environ | {"SDTUNE_CACHE_DIR": str(work / "caches" / out.name)}
        command = [sys.executable, __file__, "--one", *given, *words]
        process = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if process.returncode:
            return {"name": name, "error": process.stderr.strip().splitlines()[-1]}
        facts = json.loads((out / "run.json").read_text())
        peak = max(facts["forecast"]["memory"], key=facts["forecast"]["memory"].get)
        found = {"name": name, "forecast": facts["forecast"]["memory_bytes"], "while": peak}
        record.write_text(json.dumps(found | {"real": facts["peak_memory_bytes"]}))
    return json.loads(record.read_text())


def prepare(work: Path, *, is_wide: bool) -> Path:
    """Write model and images, unless they are there."""
    import torch

    from sdtune.testing.full import full_model
    from sdtune.testing.images import write_images
    from sdtune.testing.tiny import tiny_model

    if not (work / "images").exists():
        (work / "images").mkdir(parents=True)
        write_images(work / "images", 4, sizes=((512, 512),))
    if is_wide:
        path = work / "full.safetensors"
        return path if path.exists() else full_model(path, "sd1", torch.bfloat16)
    path = work / "half"
    return path if path.exists() else tiny_model(path, "sd1", widths=HALF)


def main() -> None:
    """Print a row for each run."""
    if "--one" in sys.argv:
        sys.exit(train(sys.argv[2:]))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    model = prepare(args.work, is_wide=args.wide)
    print("| run | forecast, MB | real, MB | error | peak while |\n|---|--:|--:|--:|---|")
    for name, words in configurations(is_wide=args.wide).items():
        if args.only in name:
            row = measure(name, words, model, args.work)
            if "error" in row:
                print(f"| {name} | {row['error']} |", flush=True)
                continue
            error = row["forecast"] / row["real"] - 1
            print(
                f"| {name} | {row['forecast'] / 1e6:,.0f} | {row['real'] / 1e6:,.0f} | {error:+.0%} | {row['while']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
