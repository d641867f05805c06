import pytest
from safetensors.torch import load_file

import sdtune_dreambooth
from sdtune.testing import method_checks


def replace(model, path):
    """Put a single file's weights in the place of a model's own."""
    tensors = load_file(path)
    for name, own in model.webui_state_dict().items():
        own.copy_(tensors.pop(name))
    assert not tensors


@pytest.mark.slow
@method_checks(
    [sdtune_dreambooth],
    "dreambooth",
    options=["dreambooth.unet_lr=1e-3", "dreambooth.text_encoder=true", "dreambooth.text_encoder_lr=1e-3"],
    reload=replace,
)
def test_dreambooth_is_a_good_method(check, tmp_path):
    check(tmp_path)
