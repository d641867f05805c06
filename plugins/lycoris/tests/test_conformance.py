import pytest
import torch
from safetensors.torch import load_file

import sdtune_lycoris
from sdtune.testing import FAMILIES, method_checks

PLUGINS = [sdtune_lycoris]
DYLORA = ["dylora.rank=4", "dylora.unit=2", "dylora.alpha=2"]


def up_down(tensors, key):
    up, down = (tensors.pop(f"{key}.lora_{side}.weight") for side in ("up", "down"))
    return torch.einsum("or,ri...->oi...", up.flatten(1), down) * tensors.pop(f"{key}.alpha") / len(down)


def kron(tensors, key):
    small, large = tensors.pop(f"{key}.lokr_w1"), tensors.pop(f"{key}.lokr_w2")
    tensors.pop(f"{key}.alpha", None)  # of no effect where both are full
    return torch.kron(small.reshape(*small.shape, *[1] * (large.dim() - 2)), large)


def adding(delta):
    """Put a file into a base model: each layer's weight plus what `delta` reads for it."""

    def merge(model, path):
        tensors = load_file(path)
        for target in model.targets(("unet", "text_encoder")):
            key = model.webui_key(target.path)
            if any(name.startswith(f"{key}.") for name in tensors):
                target.module.weight += delta(tensors, key).reshape(target.module.weight.shape)
        assert not tensors

    return merge


@pytest.mark.slow
@method_checks(
    PLUGINS,
    "lycoris",
    families=FAMILIES,
    options=["lycoris.algo=lokr", "lycoris.full_matrix=true"],
    reload=adding(kron),
)
def test_lycoris_is_a_good_method(check, tmp_path):
    check(tmp_path)


@pytest.mark.slow
@method_checks(
    PLUGINS,
    "dylora",
    families=FAMILIES,
    options=DYLORA,
    reload=adding(up_down),
)
def test_dylora_is_a_good_method(check, tmp_path):
    check(tmp_path)
