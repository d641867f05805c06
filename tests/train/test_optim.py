"""Groups of parameters in the optimizer."""

import torch
from torch import nn

from sdtune.config.schema import OptimizerOptions, TrainOptions
from sdtune.train.method import ParamGroup
from sdtune.train.optimizers import build_optimizer


def test_a_group_has_its_own_weight_decay_or_the_common_one():
    options = TrainOptions(steps=1, optimizer=OptimizerOptions(weight_decay=0.5))
    groups = [
        ParamGroup(name=name, part="unet", params={name: nn.Parameter(torch.ones(1))}, weight_decay=decay)
        for name, decay in (("own", 0.0), ("common", None))
    ]
    assert [group["weight_decay"] for group in build_optimizer(groups, options).param_groups] == [0.0, 0.5]
