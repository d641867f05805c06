import pytest
import torch
from safetensors.torch import load, save

from sdtune.errors import ModelError
from sdtune.export.container import encode_header, hash_legacy, iter_body, read_metadata

DTYPES = [
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]
MIXED = {f"t{index}": torch.ones(index, 3).to(dtype) for index, dtype in enumerate(DTYPES)} | {"s": torch.tensor(2.5)}


def test_safetensors_reads_back_every_dtype_and_shape():
    read = load(encode_header(MIXED, {"a": "b"}) + b"".join(iter_body(MIXED)))
    assert set(read) == set(MIXED)
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in MIXED.items())


def test_tensor_bytes_equal_those_of_the_safetensors_package():
    theirs = save(MIXED, {"a": "b"})
    assert b"".join(iter_body(MIXED)) == theirs[8 + int.from_bytes(theirs[:8], "little") :]


def test_order_of_insertion_does_not_matter():
    tensors, metadata = {"a": torch.ones(2), "b": torch.zeros(3)}, {"x": "1", "y": "2"}
    swapped = encode_header(dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert encode_header(tensors, metadata) == swapped


def test_metadata_round_trips_in_any_script(tmp_path):
    metadata = {"title": '猫 🐶 "quoted" \\ \n', "empty": ""}
    (tmp_path / "a.safetensors").write_bytes(encode_header({}, metadata))
    assert read_metadata(tmp_path / "a.safetensors") == metadata


def test_name_that_is_no_utf8_still_gives_a_readable_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(encode_header({}, {"title": "\udcff"}))
    assert read_metadata(tmp_path / "a.safetensors") == {"title": "?"}


@pytest.mark.parametrize("size", [10, 0x100000, 0x10FFF0, 0x120000])
@pytest.mark.parametrize("chunk", [7_000, 0x110000])
def test_legacy_hash_does_not_depend_on_chunks(size, chunk):
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    pieces = [data[start : start + chunk] for start in range(0, size, chunk)]
    assert hash_legacy(pieces) == hash_legacy([data])


@pytest.mark.parametrize("content", [b"", b"not a header at all", b"\xff" * 64])
def test_other_files_are_a_model_error(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.safetensors"):
        read_metadata(tmp_path / "a.safetensors")


def test_missing_file_is_a_model_error(tmp_path):
    with pytest.raises(ModelError):
        read_metadata(tmp_path / "a.safetensors")
