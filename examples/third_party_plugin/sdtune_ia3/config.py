"""Options of (IA)^3."""

from __future__ import annotations

from sdtune.api import Options


class Ia3Options(Options):
    """(IA)^3 (Liu et al. 2022): W' = (1 + w) * W, one w for each output, W frozen."""

    layers: str = r"attn2\.to_[kv]$"
    """Regular expression found in the path of a layer without bias; the default takes keys and values of the text."""
