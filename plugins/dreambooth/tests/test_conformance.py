import pytest

import sdtune_dreambooth
from sdtune.testing import FAMILIES, method_checks
from sdtune.testing.models import open_tiny


def replace(model, path):
    """Put a single file's weights in the place of a model's own."""
    trained = open_tiny(path, model.family)
    for part in ("unet", "text_encoder"):
        model.part(part).load_state_dict(trained.part(part).state_dict())


@pytest.mark.slow
@method_checks(
    [sdtune_dreambooth],
    "dreambooth",
    families=FAMILIES,
    options=["dreambooth.unet_lr=1e-3", "dreambooth.text_encoder=true", "dreambooth.text_encoder_lr=1e-3"],
    reload=replace,
)
def test_dreambooth_is_a_good_method(check, tmp_path):
    check(tmp_path)
