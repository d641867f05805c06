"""What diffusers' conversion of names tells before training is what its whole loader finds afterwards."""

import pytest
import torch

from sdtune.formats.consumers import diffusers
from sdtune.formats.consumers.applying import view_of

FAMILIES = ("sd1", "sd2", "sdxl")
LOHA = {name: torch.zeros(4, 4) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}


def kept(tensors):
    return tensors


def with_magnitudes(tensors):
    return tensors | {f"{next(iter(tensors)).partition('.')[0]}.dora_scale": torch.ones(1, 4)}


def with_a_stranger(tensors):
    return tensors | {
        f"lora_unet_stranger.{name}": torch.zeros(2, 2) for name in ("lora_up.weight", "lora_down.weight")
    }


def of_another_prefix(tensors):
    return {key.replace("lora_unet", "unet"): tensor for key, tensor in tensors.items()}


def of_another_algorithm(tensors):
    return {f"lora_unet_conv_in.{name}": tensor for name, tensor in LOHA.items()}


@pytest.mark.slow
@pytest.mark.parametrize("change", [kept, with_magnitudes, with_a_stranger, of_another_prefix, of_another_algorithm])
@pytest.mark.parametrize("family", FAMILIES)
def test_names_tell_what_the_loader_finds(family, change, open_base, adapter, file):
    base = open_base(family)
    made, view = file(change(adapter(base))), view_of(base)
    early, late = diffusers.read_names(made, view, base), diffusers.read(made, view, base)
    assert early.unsupported == late.unsupported
    assert early.unknown == late.unknown
    assert bool(early.refused or early.skipped) == bool(late.refused or late.skipped)
    assert early.skipped == late.skipped or late.refused
