"""What the optimizer's step within backward refuses, and what it leaves in memory."""

import pytest
import torch
from torch import nn

from sdtune.config.optimizer import OptimizerOptions
from sdtune.config.optimizers import OPTIMIZERS, find_entry
from sdtune.config.train import TrainOptions
from sdtune.errors import ConfigError
from sdtune.train.update.fused import FusedBackward, check_fused
from sdtune.train.update.stepping import Stepper


def check(**options):
    train = TrainOptions(fused_backward=True, **{"max_grad_norm": 0, **options})
    check_fused(train, find_entry(train.optimizer.name))


@pytest.mark.parametrize("name", [name for name, entry in OPTIMIZERS.items() if not entry.is_joint])
def test_optimizers_that_look_at_each_parameter_alone_are_taken(name):
    check(optimizer=OptimizerOptions(name=name))


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"max_grad_norm": 1.0}, "train.max_grad_norm=0"),
        ({"gradient_accumulation": 2}, "train.gradient_accumulation=1"),
        ({"precision": "fp16"}, "train.precision=bf16"),
        ({"optimizer": OptimizerOptions(name="prodigy")}, "adafactor"),
        ({"optimizer": OptimizerOptions(name="torch.optim:NAdam")}, "adafactor"),
    ],
)
def test_what_needs_all_gradients_is_refused_with_a_remedy(options, remedy):
    with pytest.raises(ConfigError, match=remedy):
        check(**options)


def test_everything_in_the_way_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        check(max_grad_norm=1.0, gradient_accumulation=4, precision="fp16", optimizer=OptimizerOptions(name="prodigy"))
    assert len(str(caught.value).splitlines()) == 4


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        check()


@pytest.fixture
def layers():
    """Three layers in a row, and what steps each within backward."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    parameters = dict(layers.named_parameters())
    optimizer = torch.optim.SGD([{"params": list(parameters.values()), "name": "all"}], lr=0.1)
    return layers, FusedBackward(Stepper(optimizer, parameters, None), parameters, None)


def test_at_most_one_layers_gradients_are_there_at_a_time(layers):
    layers, _ = layers
    most = []
    for parameter in layers.parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda _: most.append(sum(p.grad is not None for p in layers.parameters()))
        )
    layers(torch.ones(2, 4)).sum().backward()
    assert len(most) == 6
    assert max(most) <= 1


def test_the_norm_is_that_of_all_gradients_and_is_told_once(layers):
    layers, fused = layers
    copy = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    copy.load_state_dict(layers.state_dict())
    layers(torch.ones(2, 4)).sum().backward()
    copy(torch.ones(2, 4)).sum().backward()
    wanted = nn.utils.get_total_norm([p.grad for p in copy.parameters()])
    assert fused.norm() == float(wanted)
    assert fused.norm() == 0


def test_a_gradient_that_is_not_finite_shows_in_the_norm(layers):
    layers, fused = layers
    (layers(torch.ones(2, 4)) * torch.tensor([1.0, float("inf"), 1.0, 1.0])).sum().backward()
    assert not torch.tensor(fused.norm()).isfinite()
