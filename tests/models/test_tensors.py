from __future__ import annotations

import struct

import pytest
import torch
from safetensors.torch import save_file

from sdtune.errors import ModelError
from sdtune.models.tensors import read_header


@pytest.fixture
def saved(tmp_path):
    tensors = {
        "half": torch.randn(3, 4).half(),
        "brain": torch.randn(5).bfloat16(),
        "full": torch.randn(2, 2, 1, 1),
        "scalar": torch.tensor(2.5),
        "numbers": torch.arange(6),
        "empty": torch.empty(0),
    }
    save_file(tensors, tmp_path / "t.safetensors", metadata={"who": "me"})
    return tmp_path / "t.safetensors", tensors


def test_reading_gives_what_was_saved(saved):
    path, tensors = saved
    file = read_header(path)
    assert file.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert file.metadata == {"who": "me"}
    assert all(torch.equal(file.read(name), tensor) for name, tensor in tensors.items())


def test_a_cast_tensor_larger_than_the_buffer_is_whole(tmp_path):
    tensor = torch.randn(3, 100_003)
    save_file({"x": tensor}, tmp_path / "t.safetensors")
    assert torch.equal(read_header(tmp_path / "t.safetensors").read("x", torch.bfloat16), tensor.bfloat16())


def test_fp8_is_told_and_not_read(tmp_path):
    save_file({"x": torch.zeros(3).to(torch.float8_e4m3fn)}, tmp_path / "t.safetensors")
    with pytest.raises(ModelError, match="F8_E4M3, which is not read"):
        read_header(tmp_path / "t.safetensors").read("x")


def test_floats_are_cast_and_numbers_are_not(saved):
    file = read_header(saved[0])
    assert torch.equal(file.read("half", torch.float32), saved[1]["half"].float())
    assert file.read("numbers", torch.bfloat16).dtype == torch.int64


def _content(*parts):
    return b"".join(parts)


HEADER = b'{"x":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.safetensors", b"PK\x03\x04" + bytes(30), "pickled file"),
        ("m.safetensors", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P", "pickled file"),
        ("m.pt", b"whatever it is", "it is no safetensors file"),
        ("m.safetensors", b"", "cut short: 0 bytes"),
        ("m.safetensors", struct.pack("<Q", 500) + HEADER, "cut short inside its header"),
        ("m.safetensors", struct.pack("<Q", len(HEADER)) + HEADER + bytes(7), "cut short: 70 of 79 bytes"),
        ("m.safetensors", struct.pack("<Q", 1 << 40), "holds no weights: it is no safetensors file"),
        ("m.safetensors", struct.pack("<Q", 4) + b"[1,2", "header cannot be read"),
        ("m.safetensors", struct.pack("<Q", 2) + b"[]", "header cannot be read"),
        ("m.safetensors", struct.pack("<Q", 10) + b'{"a":null}', "header cannot be read"),
        (
            "m.safetensors",
            struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[4]", b"[5]") + bytes(16),
            "offsets do not fit a shape",
        ),
    ],
)
def test_a_file_that_is_no_safetensors_is_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        read_header(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_header_of_640_bytes_is_not_taken_for_a_pickle(tmp_path):
    header = HEADER.ljust(640)  # its length is the bytes 80 02 00 ..., as a pickle of protocol 2 begins
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 640) + header + bytes(16))
    assert read_header(tmp_path / "m.safetensors").shapes == {"x": (4,)}


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(ModelError, match="there is no file"):
        read_header(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="is a folder"):
        read_header(tmp_path)


def test_a_file_cut_while_a_run_goes_on_is_told(saved):
    file = read_header(saved[0])
    saved[0].write_bytes(saved[0].read_bytes()[:-60])
    with pytest.raises(ModelError, match="ended early"):
        [file.read(name) for name in file.entries]
