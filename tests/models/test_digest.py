from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.models import digest
from sdtune.models.storage import PARTS, open_storage
from sdtune.testing.tiny import tiny_sd1


@pytest.fixture
def stored(tiny_file):
    return open_storage(tiny_file).parts


@pytest.mark.parametrize("part", PARTS)
def test_one_part_has_one_digest_in_either_layout(stored, tiny_folder, part):
    assert digest.part_digest(stored[part]) == digest.part_digest(open_storage(tiny_folder).parts[part])


def test_another_weight_is_another_digest(tmp_path, stored, tiny_file):
    tensors = load_file(tiny_file)
    tensors["first_stage_model.quant_conv.bias"][0] += 1
    save_file(tensors, tmp_path / "other.safetensors")
    other = open_storage(tmp_path / "other.safetensors").parts
    assert digest.part_digest(other["vae"]) != digest.part_digest(stored["vae"])
    assert digest.part_digest(other["unet"]) == digest.part_digest(stored["unet"])


def test_another_dtype_is_another_digest(tmp_path, stored):
    half = open_storage(tiny_sd1(tmp_path / "half.safetensors", dtype=torch.float16)).parts
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
