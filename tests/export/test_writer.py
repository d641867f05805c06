import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sdtune.errors import ConfigError, NumericsError, PlatformError
from sdtune.export.container import read_metadata
from sdtune.export.writer import write_artifact


def test_equal_inputs_give_equal_bytes(artifact, info, tmp_path):
    swapped = replace(artifact, tensors=dict(reversed(artifact.tensors.items())))
    first = write_artifact(artifact, info, tmp_path / "a", dtype="fp16")
    second = write_artifact(swapped, info, tmp_path / "b", dtype="fp16")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("dtype", "expected"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_tensors_are_cast_and_the_kept_ones_are_not(artifact, info, tmp_path, dtype, expected):
    read = load_file(write_artifact(artifact, info, tmp_path, dtype=dtype))
    alpha = read.pop("lora_unet_b.alpha")
    assert alpha.dtype == torch.float32
    assert torch.equal(alpha, artifact.tensors["lora_unet_b.alpha"])
    assert all(torch.equal(tensor, artifact.tensors[name].to(expected)) for name, tensor in read.items())


def test_integers_keep_their_dtype(artifact, info, tmp_path):
    counted = replace(artifact, tensors={"position_ids": torch.arange(70_000)})
    read = load_file(write_artifact(counted, info, tmp_path, dtype="fp16"))
    assert torch.equal(read["position_ids"], torch.arange(70_000))


def test_model_hash_is_that_of_the_bytes_after_the_header(artifact, info, tmp_path):
    path = write_artifact(artifact, info, tmp_path, dtype="fp32")
    data = path.read_bytes()
    expected = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert read_metadata(path)["sshs_model_hash"] == expected
    assert read_metadata(path)["modelspec.hash_sha256"] == f"0x{expected}"


def test_legacy_hash_is_that_of_a_file_with_ss_entries_alone(artifact, info, tmp_path):
    large = replace(artifact, tensors={"a": torch.arange(400_000.0)})
    path = write_artifact(large, info, tmp_path, dtype="fp32")
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = {k: v for k, v in header["__metadata__"].items() if k.startswith("ss_")}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    earlier = len(text).to_bytes(8, "little") + text + data[8 + size :]
    expected = hashlib.sha256(earlier[0x100000:0x110000]).hexdigest()[:8]
    assert read_metadata(path)["sshs_legacy_hash"] == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensor_that_is_not_finite_is_refused_by_name(artifact, info, tmp_path, value):
    broken = replace(artifact, tensors={"lora_unet_b.lora_up.weight": torch.tensor([1.0, value])})
    with pytest.raises(NumericsError, match=r"lora_unet_b\.lora_up\.weight holds NaN or infinity"):
        write_artifact(broken, info, tmp_path, dtype="fp16")
    assert not list(tmp_path.iterdir())


def test_number_too_large_for_fp16_is_refused_and_fits_bf16(artifact, info, tmp_path):
    large = replace(artifact, tensors={"a.lora_up.weight": torch.tensor([1.0, -70_000.0])})
    with pytest.raises(NumericsError, match=r"holds 70000, and fp16 ends at 65504.*bf16"):
        write_artifact(large, info, tmp_path, dtype="fp16")
    assert write_artifact(large, info, tmp_path, dtype="bf16").exists()


def test_existing_file_is_left_unasked(artifact, info, tmp_path):
    path = write_artifact(artifact, info, tmp_path, dtype="fp16")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        write_artifact(artifact, info, tmp_path, dtype="fp32")
    assert path.read_bytes() == before
    assert write_artifact(artifact, info, tmp_path, dtype="fp32", overwrite=True).read_bytes() != before


def test_folder_that_is_a_file_is_a_platform_error(artifact, info, tmp_path):
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(PlatformError):
        write_artifact(artifact, info, tmp_path / "a", dtype="fp16")


def test_others_may_read_the_file(artifact, info, tmp_path):
    old = os.umask(0o022)
    try:
        path = write_artifact(artifact, info, tmp_path, dtype="fp16")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


def test_any_stem_round_trips_into_the_metadata(artifact, info, tmp_path):
    path = write_artifact(replace(artifact, stem="猫 🐶"), info, tmp_path, dtype="fp16")
    assert path.name == "猫 🐶.safetensors"
    assert read_metadata(path)["ss_output_name"] == "猫 🐶"


def test_no_planted_name_is_in_the_file(artifact, info, tmp_path):
    assert b"alice" not in write_artifact(artifact, info, tmp_path, dtype="fp16").read_bytes()


def test_clean_process_loads_the_file(artifact, info, tmp_path):
    path = write_artifact(artifact, info, tmp_path, dtype="fp16")
    script = "import sys; from safetensors.numpy import load_file; print(len(load_file(sys.argv[1])))"
    ran = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "4"


def test_a_file_made_without_a_run_tells_only_what_the_artifact_tells(artifact, tmp_path):
    metadata = read_metadata(write_artifact(artifact, None, tmp_path, dtype="fp32"))
    hashes = {"sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"}
    assert metadata.keys() - hashes == artifact.metadata.keys()
