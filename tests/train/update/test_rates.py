"""Learning rates of groups, step by step."""

import torch
from torch import nn

from sdtune.config.train import TrainOptions
from sdtune.train.method import ParamGroup
from sdtune.train.update.rates import group_rates, logged_rates, set_rates, used_rates


def groups():
    return [
        ParamGroup(name="unet", part="unet", params={"a": nn.Parameter(torch.ones(1))}),
        ParamGroup(
            name="words", part="text_encoder", params={"b": nn.Parameter(torch.ones(1))}, lr="0.5:3, 0.25", stop=0.4
        ),
    ]


def test_each_step_has_the_rate_of_its_group_times_the_shape():
    rates = [group_rates(group, TrainOptions(lr=0.1), steps=10) for group in groups()]
    tables = [{"params": list(group.params.values()), "name": group.name} for group in groups()]
    optimizer = torch.optim.SGD(tables, lr=1.0)
    found = []
    for step in range(6):
        set_rates(optimizer, rates, lambda step: 1 - step / 10, step)
        found.append(logged_rates(optimizer))
    assert [rate["unet"] for rate in found] == [0.1 * (1 - step / 10) for step in range(6)]
    assert [rate["words"] for rate in found] == [0.5, 0.45, 0.4, 0.25 * 0.7, 0, 0]


def test_the_highest_rate_of_a_group_is_that_of_any_step():
    assert [group_rates(group, TrainOptions(lr=0.1)).highest for group in groups()] == [0.1, 0.5]


def test_used_rates_are_told_once_and_that_of_most_numbers_first():
    def group(part, size, **rate):
        return ParamGroup(name="", part=part, params={"a": nn.Parameter(torch.ones(size))}, **rate)

    trained = [
        group("unet", 1),
        group("text_encoder", 2, lr_scale=0.5),
        group("unet", 3, lr_scale=0.3),
        group("unet", 1),
    ]
    found = used_rates(trained, TrainOptions(lr=3e-4))
    assert found == (("unet", "9e-05"), ("unet", "0.0003"), ("text_encoder", "0.00015"))
