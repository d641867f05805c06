"""How torch computes in this process: threads, and the precision of products on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdtune.config.train import TrainOptions


def set_up_torch(train: TrainOptions, device: torch.device) -> None:
    """Set what is torch's own and not a tensor's; CPUs always compute float32 in full."""
    if train.threads is not None:
        torch.set_num_threads(train.threads)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if train.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = train.tf32
