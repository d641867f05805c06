import pytest

import sdtune_hypernetwork
from sdtune.testing import method_checks
from sdtune_hypernetwork.config import HypernetworkOptions
from sdtune_hypernetwork.method import HypernetworkMethod


def start_from(model, path):
    """Put a hypernetwork before keys and values; `test_method.py` does the same without the plugin."""
    HypernetworkMethod(HypernetworkOptions(from_file=path)).attach(model, 0)
    model.eval()


OPTIONS = ["hypernetwork.activation=relu"]


@pytest.mark.slow
@method_checks([sdtune_hypernetwork], "hypernetwork", options=OPTIONS, is_identity_at_start=False, reload=start_from)
def test_hypernetworks_are_a_good_method(check, tmp_path):
    check(tmp_path)
