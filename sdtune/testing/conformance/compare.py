"""Comparisons that say what differs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

SHOWN = 3


def expect(is_true: bool, message: str) -> None:
    """Fail a check, with what is wrong.

    Raises:
        AssertionError: The claim does not hold.
    """
    if not is_true:
        raise AssertionError(message)


def expect_none(names: Iterable[str], message: str) -> None:
    """Fail a check for names that should not be there, and show some."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    expect(not names, f"{message}: {', '.join(names[:SHOWN])}{more}")


def expect_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], message: str) -> None:
    """Fail a check unless names and tensors are equal to the last bit."""
    expect_none(sorted(first.keys() ^ second.keys()), f"{message}; not in both")
    expect_none((name for name in first if not torch.equal(first[name], second[name])), message)


def expect_near(first: Mapping[str, Tensor], second: Mapping[str, Tensor], tolerance: float, message: str) -> None:
    """Fail a check unless names are equal, and tensors within `tolerance` of the greatest value."""
    expect_none(sorted(first.keys() ^ second.keys()), f"{message}; not in both")
    expect_none((name for name in first if distance(first[name], second[name]) > tolerance), message)


def distance(found: Tensor, wanted: Tensor) -> float:
    """Give the greatest difference over the greatest value; infinite where shapes differ."""
    if found.shape != wanted.shape:
        return math.inf
    scale = float(wanted.abs().max()) if wanted.numel() else 0.0
    difference = float((found.float() - wanted.float()).abs().max()) if wanted.numel() else 0.0
    return 0.0 if difference == 0 else difference / max(scale, 1e-12)


def expect_like_metrics(
    found: Sequence[Mapping[str, Any]],
    wanted: Sequence[Mapping[str, Any]],
    keys: Iterable[str],
    tolerance: float,
    message: str,
) -> None:
    """Fail a check unless the named numbers of each step are within a relative tolerance."""
    for one, other in zip(found, wanted, strict=True):
        for key in keys:
            is_near = math.isclose(one[key], other[key], rel_tol=tolerance)
            expect(is_near, f"{message}: {key} of step {one['step']} is {one[key]!r}, not {other[key]!r}")
