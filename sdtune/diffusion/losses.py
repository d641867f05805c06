"""How an error counts: element by element, then one number for each sample.

Letters: d = prediction - target, c where Huber's loss goes over from square to straight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from sdtune.config.objective import HuberSchedule, LossType
    from sdtune.diffusion.schedule import NoiseSchedule


def sample_losses(
    prediction: Tensor,
    target: Tensor,
    *,
    kind: LossType = "l2",
    c: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Give each sample's mean error over C, h, w: (B,) float32.

    Args:
        prediction: (B, C, h, w).
        target: (B, C, h, w).
        kind: The loss of an element.
        c: (B,) for `huber` and `smooth_l1`, above 0.
        mask: (B, 1, h, w) weight over the picture, multiplied before the mean.
    """
    error = elementwise(kind, prediction.float() - target.float(), None if c is None else c.view(-1, 1, 1, 1))
    return (error if mask is None else error * mask).flatten(1).mean(1)


def elementwise(kind: LossType, d: Tensor, c: Tensor | None = None) -> Tensor:
    """Give the loss of each element.

    l2: d^2; l1: |d|; huber: 2 c (sqrt(d^2 + c^2) - c), which is d^2 for small d (pseudo-Huber, Charbonnier et al. 1997,
    scaled as in kohya's scripts; for diffusion: Khrapov et al. 2024); smooth_l1: the same divided by c, which is 2 |d|
    for large d.
    """
    if kind == "l2":
        return d.square()
    if kind == "l1":
        return d.abs()
    assert c is not None
    bend = 2 * ((d.square() + c.square()).sqrt() - c)
    return c * bend if kind == "huber" else bend


def huber_table(schedule: NoiseSchedule, form: HuberSchedule, c: float, scale: float = 1.0) -> Tensor:
    """Give c for each timestep, (T,) float32 (Khrapov et al. 2024, section 3; the forms of kohya's scripts).

    constant: c. exponential: c^(t / T), from 1 to c. snr: (1 - c) / (1 + sigma)^2 + c with sigma = 1 / sqrt(SNR), from
    1 to c; c in pure noise. Each is multiplied by `scale`; kohya's scripts forget it in the last form.
    """
    count = len(schedule)
    match form:
        case "constant":
            table = torch.full((count,), c, dtype=torch.float64)
        case "exponential":
            table = c ** (torch.arange(count, dtype=torch.float64) / count)
        case "snr":
            alpha_bar = schedule.alpha_bar.double()
            signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
            table = (1 - c) * (signal / (signal + noise)).square() + c  # 1 / (1 + sigma), without a division by 0
        case _:
            assert_never(form)
    return (table * scale).float()
