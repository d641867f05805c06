from __future__ import annotations

import hashlib
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


def test_a_file_is_hashed_as_webuis_do(tiny_file):
    content = tiny_file.read_bytes()
    assert digest.file_digest(tiny_file) == hashlib.sha256(content).hexdigest()
    assert digest.legacy_digest(tiny_file) == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_a_file_is_read_once_until_it_changes(own_cache, tmp_path):
    path = tmp_path / "base.safetensors"
    path.write_bytes(b"one")
    first = digest.file_digest(path)
    (own_cache / "digests.json").write_text(
        (own_cache / "digests.json").read_text().replace(first, "remembered"), encoding="utf-8"
    )
    assert digest.file_digest(path) == "remembered"
    path.write_bytes(b"another")
    assert digest.file_digest(path) == hashlib.sha256(b"another").hexdigest()


def test_folders_and_files_that_are_gone_have_no_hash(tmp_path):
    paths = (tmp_path, tmp_path / "gone.safetensors")
    assert [(digest.file_digest(path), digest.legacy_digest(path)) for path in paths] == [("", "")] * 2
