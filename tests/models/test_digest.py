from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.models import digest
from sdtune.models.architecture import SD1, SDXL
from sdtune.models.storage import open_storage
from sdtune.testing.tiny import tiny_sd1, tiny_sdxl


@pytest.fixture
def stored(tiny_file):
    return open_storage(tiny_file, SD1).components


@pytest.mark.parametrize("part", SD1.components)
def test_one_part_has_one_digest_in_either_layout(stored, tiny_folder, part):
    assert digest.part_digest(stored[part]) == digest.part_digest(open_storage(tiny_folder, SD1).components[part])


def test_the_second_text_encoder_of_sdxl_has_one_digest_in_either_layout(tmp_path):
    file, folder = tiny_sdxl(tmp_path / "m.safetensors"), tiny_sdxl(tmp_path / "m")
    digests = {digest.hash_part(open_storage(path, SDXL).components["text_encoder_2"]) for path in (file, folder)}
    assert len(digests) == 1


def test_another_weight_is_another_digest(tmp_path, stored, tiny_file):
    tensors = load_file(tiny_file)
    tensors["first_stage_model.quant_conv.bias"][0] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    other = open_storage(tmp_path / "other.safetensors", SD1).components
    assert digest.part_digest(other["vae"]) != digest.part_digest(stored["vae"])
    assert digest.part_digest(other["unet"]) == digest.part_digest(stored["unet"])


def test_another_dtype_is_another_digest(tmp_path, stored):
    half = open_storage(tiny_sd1(tmp_path / "half.safetensors", dtype=torch.float16), SD1).components
    assert digest.part_digest(half["vae"]) != digest.part_digest(stored["vae"])


def test_a_digest_is_remembered_until_the_file_changes(own_cache, stored, tiny_file):
    digest.part_digest(stored["vae"])
    (own_cache / "digests.json").write_text(
        json.dumps(dict.fromkeys(json.loads((own_cache / "digests.json").read_text()), "remembered"))
    )
    assert digest.part_digest(stored["vae"]) == "remembered"
    os.utime(tiny_file, ns=(1, 1))
    assert digest.part_digest(stored["vae"]) == digest.hash_part(stored["vae"])


def test_a_broken_cache_costs_nothing_but_time(own_cache, stored):
    own_cache.mkdir(parents=True)
    (own_cache / "digests.json").write_text("{")
    assert digest.part_digest(stored["vae"]) == digest.hash_part(stored["vae"])
