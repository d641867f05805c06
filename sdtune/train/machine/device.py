"""Where and in what dtype a run computes, and what is set in torch for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdtune.config.schema import CoreOptions
    from sdtune.config.train import TrainOptions

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device() -> torch.device:
    """Give the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(options: CoreOptions, device: torch.device) -> torch.dtype:
    """Give the dtype of frozen parts, in which everything is computed."""
    if options.train.precision == "auto" and options.train.weights == "bf16":
        return torch.bfloat16
    if options.train.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[options.train.precision]


def set_up_torch(train: TrainOptions, device: torch.device) -> None:
    """Set what is torch's own and not a tensor's; CPUs always compute float32 in full."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = train.tf32
