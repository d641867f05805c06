"""Measure a LoRA step of `sdtune train` against a bare loop, on a full-width SD1.5 with random weights.

    python benchmarks/step.py [--steps 8] [--rounds 2] [--precision fp32 bf16]

Rank 16 on the UNet's attention blocks (192 layers), 256 px, batch 1, AdamW, latents and text cached. Programs
alternate, each in a process of its own, so that peak memory and start-up are its own too. The bare loop is what one
would write by hand: diffusers' UNet with frozen weights in the compute dtype, a plain LoRA module, no data set, no
checkpoint, no log.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RANK, SIDE, TOKENS, WIDTH = 16, 256, 77, 768


def bare(model: Path, precision: str, steps: int, out: Path) -> None:
    """Train in the simplest way; write seconds per step and the time of the first one."""
    import ctypes

    import torch
    from diffusers import UNet2DConditionModel
    from safetensors import safe_open
    from torch import nn
    from torch.nn import functional as F

    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 2**31 - 1), libc.mallopt(-1, 2**31 - 1)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]

    class Lora(nn.Module):
        def __init__(self, base: nn.Module) -> None:
            super().__init__()
            self.base = base
            rows, columns = base.weight.shape[:2]
            self.down = nn.Parameter(torch.randn(RANK, columns) / columns**0.5)
            self.up = nn.Parameter(torch.zeros(rows, RANK))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.base(x)
            down, up = self.down.to(x.dtype), self.up.to(x.dtype)
            if isinstance(self.base, nn.Conv2d):
                return y + F.conv2d(F.conv2d(x, down[..., None, None]), up[..., None, None])
            return y + F.linear(F.linear(x, down), up)

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    from sdtune.models.naming import unet_layout, unet_renaming  # only the names; the loop is bare

    names = list(unet.state_dict())
    rename = unet_renaming(unet_layout(names))
    with safe_open(model, "pt") as file:
        state = {name: file.get_tensor(f"model.diffusion_model.{rename(name)}").to(dtype) for name in names}
    unet.load_state_dict(state, assign=True)
    unet.requires_grad_(False)
    del state
    trained = []
    for name, module in list(unet.named_modules()):
        is_layer = isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1))
        if is_layer and ".attentions." in f".{name}":
            lora = Lora(module)
            unet.set_submodule(name, lora)
            trained += [lora.down, lora.up]
    assert len(trained) == 2 * 192
    optimizer = torch.optim.AdamW(trained, 1e-4, fused=True)
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = torch.cumprod(1 - beta, 0)
    mean, hidden = torch.randn(1, 4, SIDE // 8, SIDE // 8), torch.randn(1, TOKENS, WIDTH).to(dtype)
    seconds, first = [], 0.0
    for _ in range(steps):
        started = time.perf_counter()
        t, eps = torch.randint(0, 1000, (1,)), torch.randn_like(mean)
        a = alpha_bar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * mean + (1 - a).sqrt() * eps
        loss = F.mse_loss(unet(x_t.to(dtype), t, hidden).sample.float(), eps)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())
        seconds.append(time.perf_counter() - started)
        first = first or time.time()
    out.write_text(json.dumps({"seconds": seconds, "first": first}))


def measure(command: list[str], env: dict[str, str]) -> tuple[float, int]:
    """Run a command; give its start (unix seconds) and its peak resident memory in bytes."""
    started = time.time()
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed with status {status}: {' '.join(command)}")
    return started, usage.ru_maxrss * 1024


def measure_bare(model: Path, precision: str, steps: int, work: Path, env: dict[str, str]) -> dict[str, object]:
    out = work / "bare.json"
    command = [sys.executable, __file__, "--bare", str(out), "--model", str(model), "--precision", precision]
    started, peak = measure([*command, "--steps", str(steps)], env)
    told = json.loads(out.read_text())
    return {"seconds": told["seconds"], "first_s": told["first"] - started, "peak": peak}


def measure_sdtune(model: Path, precision: str, steps: int, work: Path, env: dict[str, str]) -> dict[str, object]:
    out = work / f"run-{time.time_ns()}"
    command = [sys.executable, "-m", "sdtune", "train", "--method", "lora", "--model", str(model)]
    command += ["--data", str(work / "images"), "--output", str(out), "--steps", str(steps), "--rank", str(RANK)]
    command += ["--precision", precision, "--resolution", str(SIDE), "lora.text_encoder=false", "--name", "bench"]
    command += ["data.captions=class_text", "data.class_text=photo of a dog"]
    started, peak = measure(command, env)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    return {"seconds": seconds, "first_s": lines[0]["time"] - started, "peak": peak, "file": out / "exports"}


def main() -> None:
    """Print a table of seconds per step, peak memory and time to the first step, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--model", type=Path, help="keep the random model here between runs")
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare(args.model, args.precision[0], args.steps, args.bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model = _prepare(work, args.model)
        env = {**os.environ, "SDTUNE_CACHE_DIR": str(work / "cache"), "HF_HUB_OFFLINE": "1"}
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {args.steps} steps a run")
        for precision in args.precision:
            _compare(model, precision, args, work, env)


def _compare(model: Path, precision: str, args: argparse.Namespace, work: Path, env: dict[str, str]) -> None:
    results: dict[str, list[dict[str, object]]] = {"bare loop": [], "sdtune": []}
    for _ in range(args.rounds):
        results["bare loop"].append(measure_bare(model, precision, args.steps, work, env))
        results["sdtune"].append(measure_sdtune(model, precision, args.steps, work, env))
    print(f"\n{precision:10} {'s/step median':>14} {'(min)':>7} {'peak MiB':>9} {'first step after s':>19}")
    for name, rounds in results.items():
        seconds = [second for one in rounds for second in one["seconds"][1:]]
        peak = max(one["peak"] for one in rounds) / 2**20
        first = ", ".join(f"{one['first_s']:.1f}" for one in rounds)
        print(f"{name:10} {statistics.median(seconds):14.2f} {min(seconds):7.2f} {peak:9.0f} {first:>19}")
    bare_s, ours_s = (
        statistics.median([second for one in rounds for second in one["seconds"][1:]]) for rounds in results.values()
    )
    print(f"sdtune / bare loop: {ours_s / bare_s:.2f}")


def _prepare(work: Path, model: Path | None) -> Path:
    import torch
    from PIL import Image

    from sdtune.testing.full import full_model

    (work / "images").mkdir()
    for number, color in enumerate(("red", "green")):
        Image.new("RGB", (300, 300), color).save(work / "images" / f"{number}.png")
    path = model or work / "full.safetensors"
    if not path.exists():
        full_model(path, "sd1", torch.float32)
    return path


if __name__ == "__main__":
    main()
