import pytest
from safetensors.torch import load_file

import sdtune_bitfit
from sdtune.testing import method_checks


def add(model, path):
    shifts = load_file(path)
    for target in model.targets(("unet", "text_encoder")):
        if (key := f"{model.webui_key(target.path)}.diff_b") in shifts:
            target.module.bias += shifts.pop(key)
    assert not shifts


@pytest.mark.slow
@method_checks([sdtune_bitfit], "bitfit", reload=add)
def test_bitfit_is_a_good_method(check, tmp_path):
    check(tmp_path)
