"""What optimizers keep, foretold from small parameters, against what they keep for the real ones."""

import pytest
import torch
from torch import nn

from sdtune.config.train import TrainOptions
from sdtune.train.method import ParamGroup
from sdtune.train.optimizer_state import state_bytes
from sdtune.train.optimizers import build_optimizer

SHAPES = {"matrix": (160, 320), "vector": (5000,), "kernel": (64, 32, 3, 3)}


def really_kept(groups, train):
    optimizer = build_optimizer(groups, train)
    for group in groups:
        for parameter in group.params.values():
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = [value for kept in optimizer.state.values() for value in kept.values()]
    return sum(value.numel() * value.itemsize for value in state if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("name", ["adamw", "sgd", "rmsprop", "adafactor", "lion", "prodigy"])
def test_the_state_is_as_large_as_foretold(name):
    parameters = {name: nn.Parameter(torch.full(shape, 0.1)) for name, shape in SHAPES.items()}
    groups = [ParamGroup(name="unet", part="unet", params=parameters)]
    train = TrainOptions(optimizer={"name": name}, lr=1.0)
    assert state_bytes(groups, train) == pytest.approx(really_kept(groups, train), rel=0.06)


def test_adamw_keeps_eight_bytes_an_element():
    groups = [ParamGroup(name="unet", part="unet", params={"a": nn.Parameter(torch.zeros(100, 200))})]
    assert state_bytes(groups, TrainOptions()) == pytest.approx(8 * 100 * 200, abs=8)
