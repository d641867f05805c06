"""Weights as files make them: what rounding does to each is measured, so that a damage stands out of it."""

from pathlib import Path

import pytest
import torch

from sdtune.export.weights import compare_weights, compare_words, file_changes, measure_rounding
from sdtune.formats.consumers.applying import view_of
from sdtune.formats.consumers.definition import read
from sdtune.formats.consumers.reading import File, Reading
from sdtune.testing.models import open_tiny

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
TARGET = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_tiny(tmp_path_factory.mktemp("model") / "tiny.safetensors", "sd1", parts=("unet",))


def low_rank(size):
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 64, generator=generator), torch.randn(64, 4, generator=generator)
    return {f"{LAYER}.lora_down.weight": down, f"{LAYER}.lora_up.weight": up * size}


def magnitudes(base):
    weight = dict(base.layers("unet"))[TARGET.removesuffix(".weight")].weight.detach()
    return {f"{LAYER}.dora_scale": weight.norm(dim=0, keepdim=True)}


def compared(base, written, trained):
    def file(tensors):
        return File(path=Path("zwx.safetensors"), kind="lora", tensors=tensors)

    view = view_of(base)
    found, wanted = (file_changes([read(file(tensors), view, base)]) for tensors in (written, trained))
    return compare_weights(base, found, wanted, measure_rounding(base, [file(written)], view))


def cast(tensors, dtype):
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-7, 1e-4, 1.0])
@pytest.mark.parametrize("is_decomposed", [False, True])
def test_rounding_is_no_fault_however_small_the_change(base, dtype, size, is_decomposed):
    tensors = low_rank(size) | (magnitudes(base) if is_decomposed else {})
    assert not compared(base, cast(tensors, dtype), tensors).is_wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [3e-6, 1e-4, 1.0])
def test_a_tenth_is_a_fault_however_small_the_change(base, dtype, size):
    found = compared(base, cast(low_rank(1.1 * size), dtype), low_rank(size))
    assert (found.target, found.is_wrong) == (TARGET, True)


@pytest.mark.parametrize(
    ("written", "is_wrong"),
    [
        (lambda own: own, False),
        (lambda own: own.half().float(), False),
        (lambda own: own.flip(0), True),
        (lambda own: own * 1.01, True),
        (lambda own: own[:-1], True),
    ],
)
def test_vectors_of_a_word_are_compared_number_by_number(written, is_wrong):
    """Rows that training has hardly moved apart, as from one first vector, are told in their order too."""
    vectors = torch.linspace(1, 2, 64).repeat(4, 1) + torch.arange(4)[:, None] * 0.01
    readings = [Reading(words={"zwx": {"clip_l": written(vectors)}})]
    error = compare_words(readings, {"zwx": {"clip_l": vectors}}, torch.finfo(torch.float16).eps)
    assert error.is_wrong == is_wrong
    assert compare_words([], {"zwx": {"clip_l": vectors}}, 1e-3).is_wrong
