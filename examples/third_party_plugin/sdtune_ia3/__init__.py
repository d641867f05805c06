"""(IA)^3: learn one factor for each output of the key and value layers."""

from __future__ import annotations

from sdtune.api import MethodSpec, hookimpl
from sdtune_ia3.config import Ia3Options


@hookimpl
def sdtune_methods() -> list[MethodSpec]:
    """Bring the method `ia3`; its class is imported when a run starts."""
    return [
        MethodSpec(
            name="ia3",
            summary="(IA)^3: one learned factor for each output of keys and values; tiny files",
            config=Ia3Options,
            factory="sdtune_ia3.method:Ia3Method",
            flags=("layers",),
        )
    ]
