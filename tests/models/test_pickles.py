from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from sdtune.models.pickles import LeftOut, read_plain

FORMATS = pytest.mark.parametrize("is_archive", [True, False], ids=["archive", "row"])
CONTENT = {
    "string_to_param": {"*": torch.randn(2, 8)},
    320: (OrderedDict(a=torch.randn(3, 4).half()), OrderedDict(b=torch.arange(5))),
    "name": "zwx ☃",
    "step": 12,
    "loss": 0.25,
    "none": None,
    "flags": [True, False],
    "bytes": b"\x00\xff",
    "set": {1, 2},
    "empty": torch.empty(0, 4),
    "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
}


def _saved(path, content, *, is_archive=True, protocol=2):
    torch.save(content, path, _use_new_zipfile_serialization=is_archive, pickle_protocol=protocol)
    return path


def _same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return type(one) is type(other) and all(k == m and _same(a, b) for (k, a), (m, b) in pairs)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


@FORMATS
def test_a_file_is_read_as_torch_reads_it(tmp_path, is_archive):
    path = _saved(tmp_path / "a.pt", CONTENT, is_archive=is_archive)
    assert _same(read_plain(path), torch.load(path, weights_only=True))


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reading_gives_what_was_saved_in_every_protocol(tmp_path, is_archive, protocol):
    path = _saved(tmp_path / "a.pt", CONTENT, is_archive=is_archive, protocol=protocol)
    assert _same(read_plain(path), CONTENT)


@FORMATS
def test_views_of_one_memory_and_other_orders_are_read(tmp_path, is_archive):
    base = torch.randn(6, 5)
    views = {"t": base.t(), "row": base[2], "slice": base[1:4, 1:3], "whole": base, "last": base.permute(1, 0)[:, 3:]}
    assert _same(read_plain(_saved(tmp_path / "v.pt", views, is_archive=is_archive)), views)


@FORMATS
def test_modules_of_parameters_become_tensors(tmp_path, is_archive):
    old = {"string_to_param": nn.ParameterDict({"*": nn.Parameter(torch.ones(1, 4))}), "p": nn.Parameter(torch.ones(3))}
    content = read_plain(_saved(tmp_path / "e.pt", old, is_archive=is_archive))
    assert _same(content["p"], torch.ones(3))
    assert torch.equal(content["string_to_param"]["*"], torch.ones(1, 4))


def test_what_trainers_leave_behind_is_left_out_by_name(tmp_path):
    content = read_plain(
        _saved(tmp_path / "l.ckpt", {"loss": np.float64(0.5), "w": torch.ones(1), "d": torch.device("cpu")})
    )
    assert isinstance(content["loss"], LeftOut)
    assert content["d"] == LeftOut("torch.device")
