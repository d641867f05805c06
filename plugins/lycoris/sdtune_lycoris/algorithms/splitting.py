"""Splitting a dimension into two factors."""

from __future__ import annotations


def split_near(dimension: int, factor: int | None = None) -> tuple[int, int]:
    """Split a dimension into (small, large), whose product it is.

    A factor that divides the dimension is taken as it is. Else the small part grows divisor by divisor, up to `factor`,
    as long as the sum of both does not grow; None ends at the most balanced pair: 320 -> (16, 20).
    """
    if factor is not None and dimension % factor == 0:
        return min(factor, dimension // factor), max(factor, dimension // factor)
    limit = dimension if factor is None else factor
    divisors = (small for small in range(1, limit + 1) if dimension % small == 0 and small * small <= dimension)
    small = max(divisors)
    return small, dimension // small


def split_butterfly(dimension: int, limit: int) -> tuple[int, int] | None:
    """Split a dimension into (even block size, power of two of blocks), with the largest block of at most `limit`.

    Returns:
        None where there is no such pair.
    """
    for size in range(min(limit, dimension) // 2 * 2, 0, -2):
        count = dimension // size
        if dimension % size == 0 and count & (count - 1) == 0:
            return size, count
    return None


def least_butterfly(dimension: int) -> int | None:
    """Give the smallest even block size that leaves a power of two of blocks, or None."""
    sizes = (size for size in range(2, dimension + 1, 2) if split_butterfly(dimension, size) is not None)
    return next(sizes, None)
