"""Which programs apply a file as it was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sdtune_lycoris.algorithms import Settings

PROGRAMS = ("A1111", "Forge", "ComfyUI", "sd-scripts", "diffusers")
_WEBUIS = frozenset(PROGRAMS[:3])
# The form of a layer's tensors, to the programs that give it the trained effect.
SUPPORT: Mapping[str, frozenset[str]] = {
    "locon": frozenset(PROGRAMS),
    "locon, tucker": _WEBUIS,
    "weight_decompose": _WEBUIS,
    "loha": _WEBUIS,
    "lokr": _WEBUIS,
    "diff": _WEBUIS,
    "norms": _WEBUIS,
    "glora": _WEBUIS,
    "ia3": frozenset({"A1111"}),
    "diag-oft": frozenset({"A1111", "ComfyUI"}),
    "diag-oft, rescaled": frozenset({"A1111"}),
    "boft": frozenset({"A1111", "ComfyUI"}),
}


def form(settings: Settings, *, as_diff: bool) -> str:
    """Name the form of a layer's tensors, a key of `SUPPORT`."""
    if as_diff or settings.algo == "full":
        return "diff"
    if settings.weight_decompose:
        return "weight_decompose"
    if settings.algo == "locon" and settings.tucker:
        return "locon, tucker"
    if settings.algo == "diag-oft" and settings.rescaled:
        return "diag-oft, rescaled"
    return settings.algo


def support_notes(forms: Iterable[str]) -> Sequence[str]:
    """Tell which programs will not apply a file of these forms."""
    missing = {program: [form for form in forms if program not in SUPPORT[form]] for program in PROGRAMS}
    able = [program for program, reasons in missing.items() if not reasons]
    unable = [f"{program} ({'; '.join(reasons)})" for program, reasons in missing.items() if reasons]
    if not unable:
        return []
    return [f"the file will work in {', '.join(able) or 'no known program'}; not in {', '.join(unable)}"]
