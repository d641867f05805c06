"""Every random draw as a function of (seed, purpose, keys): no state, so nothing to save and nothing to lose."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *keys: int | str) -> int:
    """Hash (seed, purpose, keys) to a 63-bit seed, the same on every machine and in every version.

    Args:
        seed: The run's seed.
        purpose: What is drawn: "order", "flip", "noise", "timestep", "init", ...
        keys: What tells one draw from another: epoch, step, sample id, parameter name.
    """
    text = "\x1f".join([str(seed), purpose, *(f"{type(key).__name__}:{key}" for key in keys)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def derive_generator(seed: int, purpose: str, *keys: int | str) -> torch.Generator:
    """Give a CPU generator seeded by `derive_seed`."""
    import torch

    return torch.Generator("cpu").manual_seed(derive_seed(seed, purpose, *keys))
