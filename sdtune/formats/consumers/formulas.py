"""The change of a weight that an adapter's tensors stand for, as they were trained.

Shapes: W (out, in) of a linear layer, (out, in, kh, kw) of a convolution; r: rank. Each function gives dW as (out, ...)
with W's number of elements, without the scale alpha / r. Tensor names and formulas are those of LyCORIS 3.2 and kohya's
scripts; each program's module tells where it computes something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.formats.consumers.reading import Group


def low_rank(group: Group) -> Tensor:
    """Multiply `up @ down`, or `mid` (r, r, kh, kw) by both (Tucker)."""
    up, down = group["lora_up.weight"].float(), group["lora_down.weight"].float()
    if "lora_mid.weight" in group:
        return torch.einsum("nmhw,on,mi->oihw", group["lora_mid.weight"].float(), up.flatten(1), down.flatten(1))
    return up.flatten(1) @ down.flatten(1)


def hadamard(group: Group) -> Tensor:
    """Multiply two low-rank matrices element by element."""
    return _hadamard_factor(group, 1) * _hadamard_factor(group, 2)


def _hadamard_factor(group: Group, number: int) -> Tensor:
    first, second = group[f"hada_w{number}_a"].float(), group[f"hada_w{number}_b"].float()
    if f"hada_t{number}" in group:
        return torch.einsum("ijhw,io,jc->ochw", group[f"hada_t{number}"].float(), first, second)
    return first @ second


def kronecker(group: Group) -> Tensor:
    """Take the Kronecker product of a small matrix and a large one, each whole or as factors."""
    small, large = kronecker_factor(group, 1), kronecker_factor(group, 2)
    if "lokr_t2" in group:
        large = torch.einsum(
            "ijhw,io,jc->ochw", *(group[f"lokr_{name}"].float() for name in ("t2", "w2_a", "w2_b"))
        ).contiguous()
    return torch.kron(small.reshape(*small.shape, *[1] * (large.dim() - 2)), large)


def kronecker_factor(group: Group, number: int) -> Tensor:
    """Give w1 or w2, multiplied out; not for a Tucker w2."""
    whole = f"lokr_w{number}"
    if whole in group:
        return group[whole].float()
    if number == 2 and "lokr_t2" in group:
        return group["lokr_t2"].float()
    return group[f"{whole}_a"].float() @ group[f"{whole}_b"].float()


def kronecker_rank(group: Group) -> int | None:
    """Give r; None where both factors are whole, and alpha is without effect."""
    ranks = [len(group[name]) for name in ("lokr_w1_b", "lokr_w2_b") if name in group]
    return ranks[-1] if ranks else None


def gains(weight: Tensor, group: Group) -> Tensor:
    """Multiply W by gains of input (`on_input`) or output channels."""
    factor = group["weight"].float()
    shape = (1, -1) if bool(group["on_input"].item()) else (-1, 1)
    return weight * factor.reshape(*shape, *[1] * (weight.dim() - 2))


def bilinear(weight: Tensor, group: Group, *, is_old: bool) -> Tensor:
    """Compute `b1 @ b2 + (W @ a1) @ a2`; old files have each pair's names swapped."""
    a1, a2, b1, b2 = (group[f"{name}.weight"].float().flatten(1) for name in ("a1", "a2", "b1", "b2"))
    if is_old:
        a1, a2, b1, b2 = a2, a1, b2, b1
    return b1 @ b2 + (weight.flatten(1) @ a1) @ a2


def rotations(blocks: Tensor, limit: float) -> Tensor:
    """Compute (I + Q)(I - Q)^-1 of Q = B - B^T, with |Q| <= limit; 0 is no limit."""
    skew = blocks - blocks.transpose(-1, -2)
    norm = float(skew.norm())
    if limit > 0 and norm > limit:
        skew = skew * (limit / norm)
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    turns: Tensor = (eye + skew) @ torch.linalg.inv(eye - skew)
    return turns


def rotated(weight: Tensor, turns: Tensor) -> Tensor:
    """Rotate rows of W: in blocks with turns (n, b, b), in butterfly stages with turns (m, n, b, b)."""
    if turns.dim() == 3:
        count, size, _ = turns.shape
        rows = weight.reshape(count, size, *weight.shape[1:])
        return torch.einsum("knm,kn...->km...", turns, rows).reshape(weight.shape)
    size = turns.shape[-1]
    for stage, blocks in enumerate(turns):
        distance = 2**stage * size // 2
        order = torch.arange(len(weight)).view(-1, 2, distance).transpose(1, 2).reshape(-1, size).to(weight.device)
        new = torch.einsum("bij,bj...->bi...", blocks, weight[order])
        weight = torch.empty_like(weight).index_copy(0, order.flatten(), new.flatten(0, 1))
    return weight


def decomposed(merged: Tensor, magnitudes: Tensor) -> Tensor:
    """Give each row or column of W + dW its own length (DoRA), by the shape of the magnitudes."""
    is_output = magnitudes.numel() == magnitudes.shape[0] == merged.shape[0]
    axis = 0 if is_output else 1
    others = tuple(dim for dim in range(merged.dim()) if dim != axis)
    lengths: Tensor = torch.linalg.vector_norm(merged, dim=others, keepdim=True)
    return merged * (magnitudes.float() / lengths)
