import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.testing import FAMILIES, method_checks


def merge(model, path):
    """Add a LoRA to a model's weights: W + alpha / rank * up @ down, as webuis do."""
    tensors = load_file(path)
    for target in model.targets(("unet", "text_encoder")):
        key = model.webui_key(target.path)
        if f"{key}.alpha" in tensors:
            down, up = (tensors.pop(f"{key}.lora_{side}.weight") for side in ("down", "up"))
            delta = torch.einsum("or,ri...->oi...", up.flatten(1), down)
            target.module.weight += delta * tensors.pop(f"{key}.alpha") / len(down)
    assert not tensors


@pytest.mark.slow
@method_checks(
    [sdtune_lora], "lora", families=FAMILIES, options=["lora.rank=4", "lora.alpha=2", "lora.conv_rank=2"], reload=merge
)
def test_lora_is_a_good_method(check, tmp_path):
    check(tmp_path)
