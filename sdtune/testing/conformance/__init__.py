"""The conformance kit: what every method promises, as checks that any author runs with one decorator.

Example:
    @method_checks([sdtune_bitfit], "bitfit")
    def test_bitfit_is_a_good_method(check, tmp_path):
        check(tmp_path)
"""

from __future__ import annotations

from sdtune.testing.conformance.kit import Check, list_method_checks, method_checks
from sdtune.testing.conformance.subject import FAMILIES

__all__ = ["FAMILIES", "Check", "list_method_checks", "method_checks"]
