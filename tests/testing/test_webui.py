import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from sdtune.export.pickled import encode_pickled
from sdtune.testing.webui import load_like_webui

CONTENT = {
    "name": "zwx",
    "step": 7,
    "string_to_param": {"*": torch.arange(6.0).reshape(2, 3)},
    "half": torch.ones(2, dtype=torch.bfloat16),
    "more": OrderedDict(a=[1, 2.5, None, True], b=(torch.tensor(3),)),
}


def assert_content(found):
    assert found.keys() == CONTENT.keys()
    assert torch.equal(found["string_to_param"]["*"], CONTENT["string_to_param"]["*"])
    assert torch.equal(found["half"], CONTENT["half"])
    assert found["more"] == CONTENT["more"]


def save_packed(content, path):
    """Save as torch does, without the two members that the webui refuses."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if not name.endswith((".format_version", ".storage_alignment")):
                new.writestr(name, old.read(name))
    return path


def test_reads_what_sdtune_writes(tmp_path):
    (tmp_path / "a.pt").write_bytes(encode_pickled(CONTENT))
    assert_content(load_like_webui(tmp_path / "a.pt"))


def test_reads_the_form_before_2020(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert_content(load_like_webui(tmp_path / "a.pt"))


def test_refuses_what_torch_writes_today(tmp_path):
    torch.save(CONTENT, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"refuses the member 'a/\.(format_version|storage_alignment)'"):
        load_like_webui(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (torch.Size([1]), "torch.Size"),
        (torch.float16, "torch.float16"),
        (torch.tensor(True), "torch.BoolStorage"),
        (Path("a"), "pathlib"),
    ],
    ids=str,
)
def test_refuses_classes_that_are_not_on_the_list(tmp_path, value, name):
    with pytest.raises(ValueError, match=name):
        load_like_webui(save_packed({"a": value}, tmp_path / "a.pt"))


def test_refuses_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("evil",)

    with pytest.raises(ValueError, match=r"builtin__\.print"):
        load_like_webui(save_packed({"a": Evil()}, tmp_path / "a.pt"))


def test_refuses_something_else_stored_apart(tmp_path):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("code", 1) if value is ... else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump([...])
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", buffer.getvalue())
    with pytest.raises(ValueError, match="where a storage should stand"):
        load_like_webui(tmp_path / "a.pt")


def test_refuses_an_archive_without_content(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("a/version", "3")
    with pytest.raises(ValueError, match=r"one data\.pkl, the archive has 0"):
        load_like_webui(tmp_path / "a.pt")


def test_refuses_a_file_of_another_kind(tmp_path):
    (tmp_path / "a.pt").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="cannot read the file"):
        load_like_webui(tmp_path / "a.pt")
