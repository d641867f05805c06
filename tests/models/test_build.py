from __future__ import annotations

import pytest
import torch

from sdtune.errors import ModelError
from sdtune.models.build import _AHEAD, _read_ahead

NAMES = [str(number) for number in range(50)]


def test_tensors_come_in_order_and_few_wait_for_their_place():
    """Where packing or a GPU is slower than the disk, a model must not pile up in memory."""
    read = []

    def number(name):
        read.append(name)
        return torch.tensor(int(name))

    for index, tensor in enumerate(_read_ahead(number, NAMES)):
        assert tensor == index
        assert len(read) <= index + 1 + _AHEAD
    assert sorted(read) == sorted(NAMES)


def test_what_cannot_be_read_ends_the_reading():
    read = []

    def broken(name):
        read.append(name)
        raise ModelError(f"{name} holds NaN")

    with pytest.raises(ModelError, match=r"^0 holds NaN"):
        list(_read_ahead(broken, NAMES))
    assert len(read) <= 1 + _AHEAD
