"""What optimizers keep, foretold from small parameters, against what they keep for the real ones."""

import warnings

import pytest
import torch
from torch import nn

from sdtune.config.optimizers import OPTIMIZERS
from sdtune.config.train import TrainOptions
from sdtune.train.method import ParamGroup
from sdtune.train.update.optimizer_state import state_bytes
from sdtune.train.update.optimizers import build_optimizer

SHAPES = {"matrix": (160, 320), "down": (16, 160), "vector": (5000,), "bias": (160,), "kernel": (64, 32, 3, 3)}


def really_kept(groups, train):
    optimizer = build_optimizer(groups, train)
    for group in groups:
        for parameter in group.params.values():
            parameter.grad = torch.ones_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer.step()
    state = [value for kept in optimizer.state.values() for value in kept.values()]
    return sum(value.numel() * value.itemsize for value in state if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("name", [entry.name for entry in OPTIMIZERS.values()])
def test_the_state_is_as_large_as_foretold(name):
    entry = OPTIMIZERS[name]
    pytest.importorskip(entry.target.partition(":")[0], exc_type=ImportError)
    shapes = {"matrix": (160, 320), "down": (16, 160)} if name == "muon" else SHAPES
    parameters = {name: nn.Parameter(torch.full(shape, 0.1)) for name, shape in shapes.items()}
    groups = [ParamGroup(name="unet", part="unet", params=parameters)]
    train = TrainOptions(optimizer={"name": name}, lr=1.0)
    assert state_bytes(groups, train) == pytest.approx(
        really_kept(groups, train), rel=0.03 if name == "prodigy_plus" else 0.005
    )


def test_weights_in_16_bits_halve_the_state():
    groups = [ParamGroup(name="unet", part="unet", params={"a": nn.Parameter(torch.zeros(100, 200))})]
    assert state_bytes(groups, TrainOptions(weights="bf16")) == pytest.approx(4 * 100 * 200, abs=8)


def test_adamw_keeps_eight_bytes_an_element():
    groups = [ParamGroup(name="unet", part="unet", params={"a": nn.Parameter(torch.zeros(100, 200))})]
    assert state_bytes(groups, TrainOptions()) == pytest.approx(8 * 100 * 200, abs=8)
