"""How much detail a picture has: steepness of its edges, and where its spectrum breaks off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

_STEP_PX = 4
_TILE_PX = 32
_STRONG = 25.0  # mean square of a difference that is an edge and no noise
_TILES = 3  # a row
_SPECTRUM_PX = 256
_BINS = 16
_OCTAVES = range(3, 9)
_ROUNDING = 1 / 12  # variance of what rounding to 8 bits adds


def sharpness(small: Image.Image) -> float:
    """Compare differences between neighbours with those over 4 px, where a picture of about 512 px has edges.

    A smooth ramp has a ratio of 1/4, a step one of 1/2, texture up to 1. Strong tiles decide, so that a blurred
    background harms nobody; the less sharp of both directions counts, so that a moved camera is seen.

    Returns:
        The ratio, scaled so that a ramp is 0 and texture 1; 1 where there is no edge to judge by.
    """
    values = np.asarray(small, dtype=np.float32)
    ratios = [_steepness(values), _steepness(np.ascontiguousarray(values.T))]
    lowest = 1 / _STEP_PX
    return float(np.clip((min(ratios) - lowest) / (1 - lowest), 0, 1))


def _steepness(values: NDArray[np.float32]) -> float:
    near = np.square(values[:, 1:] - values[:, :-1])[:, : 1 - _STEP_PX]
    far = np.square(values[:, _STEP_PX:] - values[:, :-_STEP_PX])
    near, far = _tile_means(near), _tile_means(far)
    if not far.size:
        return 1.0
    strong = far > max(float(np.median(far)), _STRONG)
    return float(np.percentile(np.sqrt(near[strong] / far[strong]), 90)) if strong.any() else 1.0


def _tile_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = values.shape[0] // _TILE_PX, values.shape[1] // _TILE_PX
    tiles = values[: rows * _TILE_PX, : columns * _TILE_PX].reshape(rows, _TILE_PX, columns, _TILE_PX)
    means: NDArray[np.float32] = tiles.mean(axis=(1, 3)).ravel()
    return means


def falloff(luminance: Image.Image) -> tuple[float, float]:
    """Find the octave over which a picture's power falls most.

    Power of natural pictures falls by about one decade an octave, all the way (Field 1987, J. Opt. Soc. Am. A 4).
    That of an enlarged one breaks off where the smaller picture ended.

    Returns:
        Decades lost over that octave, and how often the picture is larger than its detail, roughly; (0, 1) where there
        is too little to judge by.
    """
    power = _radial_power(np.asarray(luminance, dtype=np.float32))
    if power is None:
        return 0.0, 1.0
    # Compared are means over two neighbouring bins: k-1 and k against 2k-1 and 2k.
    levels = np.log10(power)
    losses = {k: float(levels[k - 1 : k + 1].mean() - levels[2 * k - 1 : 2 * k + 1].mean()) for k in _OCTAVES}
    steepest = max(losses, key=lambda k: losses[k])
    return losses[steepest], max(1.0, 12 / steepest)


def _radial_power(values: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Average the power spectrum of some tiles over rings of equal frequency; None for what is small or flat."""
    side = min(_SPECTRUM_PX, *values.shape)
    if side < 2 * _TILE_PX:
        return None
    hann = np.hanning(side).astype(np.float32)
    window = np.outer(hann, hann)
    tops, lefts = (np.linspace(0, length - side, _TILES).astype(int) for length in values.shape)
    tiles = np.stack([values[top : top + side, left : left + side] for top in tops for left in lefts])
    tiles -= tiles.mean(axis=(1, 2), keepdims=True)
    power = np.square(np.abs(np.fft.rfft2(tiles * window))).mean(axis=0)
    rings = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * 2 * _BINS
    bins = np.minimum(rings.astype(int), _BINS + 1).ravel()
    means = np.bincount(bins, power.ravel(), minlength=_BINS + 2) / np.bincount(bins, minlength=_BINS + 2)
    floor = _ROUNDING * float(np.square(window).sum())
    return means + floor / 100 if means[_OCTAVES.start] > 100 * floor else None
