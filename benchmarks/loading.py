"""Measure the memory and the time that loading a full-width model takes, from each kind of file.

    python benchmarks/loading.py [--family sd1] [--dtype fp16] [--into bf16] [--kinds m.ckpt] [--folder DIR]

Random weights. Each kind is loaded in a process of its own, part by part, all parts kept. Read the ratio: peak memory
that loading added, over the bytes of the weights that are kept. The last column counts the layers adapters may act on:
attention of the UNet, then each text encoder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sdtune.models.base import DiffusionModel

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
KINDS = ("m.safetensors", "m.ckpt", "old.ckpt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="sd1")
    parser.add_argument("--dtype", default="fp16", choices=DTYPES, help="as stored")
    parser.add_argument("--into", default="bf16", choices=DTYPES, help="as kept")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--folder", type=Path, help="where the files are made, and kept")
    parser.add_argument(
        "--load", type=Path, nargs="+", help="load these in this process, and print a line of JSON each"
    )
    given = parser.parse_args()
    if given.load:
        for path in given.load:
            print(json.dumps(load(path, given.into)), flush=True)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        write(folder, given.family, given.dtype, given.kinds)
        print(f"{given.family}, {given.dtype} into {given.into}\n")
        print("| file | GB | detected, s | loaded, s | weights kept, MiB | peak over them | layers |")
        print("|---|--:|--:|--:|--:|--:|--:|")
        for kind in given.kinds:
            print(row(folder / kind, given.into), flush=True)


def write(folder: Path, family: str, dtype: str, kinds: Sequence[str]) -> None:
    """Write a model once, and the same weights in the formats of torch.save that are asked for."""
    import torch
    from safetensors.torch import load_file

    from sdtune.testing.full import full_model

    plain, archive, old = (folder / kind for kind in KINDS)
    if not plain.exists():
        full_model(plain, family, getattr(torch, DTYPES[dtype]))
    for path, is_archive in ((archive, True), (old, False)):
        if path.name in kinds and not path.exists():
            content = {"state_dict": load_file(plain), "global_step": 1}
            torch.save(content, path, _use_new_zipfile_serialization=is_archive)


def row(path: Path, into: str) -> str:
    command = [sys.executable, __file__, "--load", str(path), "--into", into]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    r = json.loads(done.stdout)
    layers = " / ".join(map(str, r["layers"].values()))
    size = path.stat().st_size / 1e9
    return (
        f"| `{path.name}` | {size:.2f} | {r['detected']:.2f} | {r['loaded']:.1f} | {r['kept'] / 2**20:,.0f} "
        f"| **{r['peak'] / r['kept']:.3f} x** | {layers} |"
    )


def load(path: Path, into: str) -> dict[str, Any]:
    """Load every part in this process, and tell what it took."""
    import torch

    from sdtune.config.model import ModelOptions
    from sdtune.models.open import open_model
    from sdtune.plugins import Registry

    torch.set_num_threads(1)
    dtype, cpu = getattr(torch, DTYPES[into]), torch.device("cpu")
    begin = time.perf_counter()
    options = ModelOptions(path=str(path))
    model = open_model(options, dtype=dtype, device=cpu, registry=Registry.from_plugins([]))
    detected = time.perf_counter() - begin
    before = base_bytes()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what was loaded before
    begin = time.perf_counter()
    for part in ("unet", "vae", "text_encoder"):
        model.load(part)
    loaded = time.perf_counter() - begin
    return {
        "described": model.describe(),
        "detected": detected,
        "loaded": loaded,
        "kept": sum(p.nbytes for p in model.parameters()),
        "peak": memory_bytes("VmHWM") - before["VmRSS"],
        "held": memory_bytes("RssAnon") - before["RssAnon"],  # without pages of files, which the system may take away
        "layers": count_layers(model, "attention", "text"),
        "convolutions": count_layers(model, "resnet", "sampler"),
        "tensors": Counter(name.split(".")[0] for name, _ in model.named_parameters()),
    }


def count_layers(model: DiffusionModel, *kinds: str) -> Counter[str]:
    """Count the layers of some kinds that adapters may act on, by component."""
    targets = model.targets(("unet", "text_encoder"))
    return Counter(target.path.split(".")[0] for target in targets if target.kind in kinds)


@cache
def base_bytes() -> dict[str, int]:
    """Import what loading imports, so that modules do not count as weights; give the memory before the first model."""
    from sdtune.models import libraries

    libraries.unet_class(), libraries.vae_class(), libraries.text_classes(), libraries.projecting_text_class()
    return {name: memory_bytes(name) for name in ("VmRSS", "RssAnon")}


def memory_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
