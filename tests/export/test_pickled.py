""".pt files hold nothing but data, in an archive that strict readers accept."""

import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from sdtune.errors import NumericsError
from sdtune.export.pickled import encode_pickled

CONTENT = {
    "string_to_param": {"*": torch.arange(6.0).reshape(2, 3)},
    "step": 3,
    768: (OrderedDict(a=torch.ones(2, 2)), OrderedDict(a=torch.zeros(2))),
    "name": "猫",
    "nothing": None,
    "flags": [True, 0.5],
}


def read(data):
    return torch.load(io.BytesIO(data), weights_only=True)


def test_content_comes_back_equal():
    back = read(encode_pickled(CONTENT))
    assert torch.equal(back["string_to_param"]["*"], CONTENT["string_to_param"]["*"])
    assert isinstance(back[768], tuple)
    assert isinstance(back[768][0], OrderedDict)
    assert {key: back[key] for key in ("step", "name", "nothing", "flags")} == {
        "step": 3, "name": "猫", "nothing": None, "flags": [True, 0.5],
    }  # fmt: skip


def test_the_archive_has_only_members_that_webui_knows():
    with zipfile.ZipFile(io.BytesIO(encode_pickled(CONTENT))) as archive:
        names = {name.split("/", 1)[1] for name in archive.namelist()}
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
    assert {name for name in names if not name.startswith("data/")} == {"data.pkl", "byteorder", "version"}


def test_equal_content_gives_equal_bytes():
    assert encode_pickled(CONTENT) == encode_pickled({key: value for key, value in CONTENT.items()})  # noqa: C416  # a copy


def test_a_slice_does_not_bring_its_whole_memory():
    whole = torch.zeros(1000, 1000)
    assert len(encode_pickled({"part": whole[:2, :2]})) < 5000


@pytest.mark.parametrize(
    "value",
    [Path("a"), {1, 2}, torch.Size([1]), torch.float16, torch.ones(2, dtype=torch.bool), object()],
    ids=lambda value: type(value).__name__,
)
def test_what_a_safe_reader_refuses_is_never_written(value):
    with pytest.raises(TypeError, match="refuse"):
        encode_pickled({"value": value})


def test_nan_is_not_written():
    with pytest.raises(NumericsError, match=r"/vectors"):
        encode_pickled({"vectors": torch.tensor([float("nan")])})
