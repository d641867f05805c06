"""What to do where a program cannot use a file, told by the words of the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_MAGNITUDES = "train without magnitudes (weight_decompose=false)"
_NO_LORA = "train a LoRA for that program (method=lora)"
# Words of a reason to what to do; docs/certificate.md holds the same table.
REMEDIES: Mapping[str, str] = {
    "it has no activation": "choose an activation ComfyUI has, e.g. relu",
    "behind a last LayerNorm": "train without LayerNorm, or with activate_output=true",
    "it never turns dropout off": "train without export_dropout",
    "it has no hypernetworks": _NO_LORA,
    "have no hypernetworks": _NO_LORA,
    "its attention never asks them": _NO_LORA,
    "it knows no algorithm but LoRA": _NO_LORA,
    "no algorithm": "train a LoRA, or another algorithm, for that program",
    "it drops files with more than": "train no norms of text encoders, and no (IA)³, OFT or BOFT, for Forge",
    "(Tucker)": "train without Tucker factors (tucker=false)",
    "fused attention needs": "train all four layers of the text encoder's attention",
    "DoRA": _NO_MAGNITUDES,
    "magnitudes": _NO_MAGNITUDES,
    "ModelSamplingDiscrete": "use that node, and deliver the file by hand",
    "needs the package peft": "pip install peft",
}


def find_remedy(reason: str) -> str:
    """Say what to do about a reason; empty when nothing is known."""
    return next((remedy for words, remedy in REMEDIES.items() if words in reason), "")
