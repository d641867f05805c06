"""Compare ways to compute LoRA, at the layer shapes of SD 1.5: time, and bytes kept for backward.

    python benchmarks/adapter_forms.py            # Markdown tables, about two minutes on two cores
    python benchmarks/adapter_forms.py --quick    # half of the ranks

Forms take turns within a round (A-B-A-B), and the fastest round of each counts, so that a busy machine does no harm.
Time is forward and backward, over that of the frozen layer alone with a gradient for its input. Kept bytes are what
autograd saves between the two, without the parameters and the input.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F

from sdtune_lora.layers import LoraLayer

# name, layer, input shape at 512 px (64 x 64 latents), batch 1
SHAPES = {
    "4096 x 320 -> 320": (lambda: nn.Linear(320, 320), (1, 4096, 320)),
    "1024 x 640 -> 640": (lambda: nn.Linear(640, 640), (1, 1024, 640)),
    "256 x 1280 -> 1280": (lambda: nn.Linear(1280, 1280), (1, 256, 1280)),
    "77 x 768 -> 320": (lambda: nn.Linear(768, 320), (1, 77, 768)),
    "4096 x 320 -> 2560": (lambda: nn.Linear(320, 2560), (1, 4096, 320)),
    "conv 1x1, 320, 64 px": (lambda: nn.Conv2d(320, 320, 1), (1, 320, 64, 64)),
    "conv 3x3, 640, 32 px": (lambda: nn.Conv2d(640, 640, 3, padding=1), (1, 640, 32, 32)),
}
RANKS = (4, 16, 64, 128)


class Naive(nn.Module):
    """Separate operations, as most trainers write it."""

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        layer, base = self.layer, self.layer.base
        down, up = layer.lora_down.to(x.dtype), layer.lora_up.to(x.dtype)
        if isinstance(base, nn.Linear):
            return base(x) + F.linear(F.linear(x, down), up) * layer.scale
        return base(x) + F.conv2d(F.conv2d(x, down, None, base.stride, base.padding), up) * layer.scale


class Addmm(Naive):
    """Autograd over addmm: one operation fewer."""

    def forward(self, x):
        layer, base = self.layer, self.layer.base
        if isinstance(base, nn.Conv2d):
            return super().forward(x)
        rows = x.flatten(0, -2)
        h = rows @ layer.lora_down.to(x.dtype).t()
        return torch.addmm(base(rows), h, layer.lora_up.to(x.dtype).t(), alpha=layer.scale).view(*x.shape[:-1], -1)


class Merged(Naive):
    """The weight made anew in each forward."""

    def forward(self, x):
        weight = self.layer.base.weight + self.layer.delta_weight().to(x.dtype)
        base = self.layer.base
        if isinstance(base, nn.Linear):
            return F.linear(x, weight, base.bias)
        return F.conv2d(x, weight, base.bias, base.stride, base.padding)


def peft_form(layer: LoraLayer) -> nn.Module:
    """The same layer by peft."""
    import peft

    config = peft.LoraConfig(r=layer.rank, lora_alpha=layer.alpha, target_modules=["0"])
    return peft.inject_adapter_in_model(config, nn.Sequential(layer.base))[0]


def run(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> None:
    for parameter in module.parameters():
        parameter.grad = None
    x.grad = None
    module(x).backward(gradient)


def kept_bytes(module: nn.Module, x: torch.Tensor) -> int:
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(x)
    known = [x, *module.parameters()]
    for tensor in known:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def measure(forms: dict[str, nn.Module], x: torch.Tensor, seconds: float) -> dict[str, float]:
    """Time forms in turns for about `seconds`; least seconds of each."""
    gradient = torch.randn_like(forms["frozen"](x))
    times: dict[str, list[float]] = {name: [] for name in forms}
    for form in forms.values():
        run(form, x, gradient)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["frozen"]) < 5:
        for name, form in forms.items():
            start = time.perf_counter()
            run(form, x, gradient)
            times[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in times.items()}


def make_forms(build, rank: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    layer = LoraLayer(build().to(dtype), rank=rank, alpha=rank)
    layer.reset(torch.Generator().manual_seed(0))
    forms = {"frozen": layer.base, "naive": Naive(layer), "addmm": Addmm(layer), "merged": Merged(layer)}
    return {**forms, "peft": peft_form(layer), "sdtune": layer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ranks 16 and 128 only")
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each row")
    options = parser.parse_args()
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        names = ["naive", "addmm", "merged", "peft", "sdtune"]
        print(f"\n{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads\n")
        print(f"| layer | rank | frozen, ms | {' | '.join(names)} | kept, KiB: {' / '.join(names)} |")
        print("|---" * (len(names) + 4) + "|")
        for label, (build, shape) in SHAPES.items():
            for rank in RANKS[1::2] if options.quick else RANKS:
                forms = make_forms(build, rank, dtype)
                x = torch.randn(shape).to(dtype).requires_grad_()
                times = measure(forms, x, options.seconds)
                ratios = " | ".join(f"{times[name] / times['frozen']:.2f}" for name in names)
                kept = " / ".join(f"{kept_bytes(forms[name], x) / 1024:.0f}" for name in names)
                print(f"| {label} | {rank} | {times['frozen'] * 1e3:.2f} | {ratios} | {kept} |", flush=True)


if __name__ == "__main__":
    main()
