"""What plugin authors test with: tiny models without downloads, image folders, a runner, the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtune.testing.conformance import FAMILIES, Check, list_method_checks, method_checks

__all__ = ["FAMILIES", "Check", "list_method_checks", "method_checks"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sdtune.testing import conformance

    return getattr(conformance, name)
