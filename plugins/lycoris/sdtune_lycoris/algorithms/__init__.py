"""The algorithms: each a module of pure functions of a frozen weight, factors and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdtune_lycoris.algorithms.base import Algorithm, Settings
from sdtune_lycoris.algorithms.full import FULL
from sdtune_lycoris.algorithms.glora import GLORA
from sdtune_lycoris.algorithms.ia3 import IA3
from sdtune_lycoris.algorithms.locon import LOCON
from sdtune_lycoris.algorithms.loha import LOHA
from sdtune_lycoris.algorithms.lokr import LOKR
from sdtune_lycoris.algorithms.oft import BOFT, DIAG_OFT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sdtune_lycoris.config import Algo

ALGORITHMS: Mapping[Algo, Algorithm] = {
    "locon": LOCON,
    "loha": LOHA,
    "lokr": LOKR,
    "ia3": IA3,
    "full": FULL,
    "glora": GLORA,
    "diag-oft": DIAG_OFT,
    "boft": BOFT,
}

__all__ = ["ALGORITHMS", "Algorithm", "Settings"]
