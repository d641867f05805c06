"""Every optimizer of the table: that the facts about it hold, and that it goes on from a checkpoint bit for bit."""

import inspect
import json
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from sdtune.config.optimizer import OptimizerOptions, ScheduleOptions
from sdtune.config.optimizers import OPTIMIZERS
from sdtune.config.train import EmaOptions, TrainOptions
from sdtune.errors import ConfigError, PlatformError
from sdtune.train.method import ParamGroup
from sdtune.train.update.optimizers import averaged_weights, build_optimizer, check_fit, choose_optimizer
from sdtune.train.update.rates import group_rates, logged_rates, set_rates
from sdtune.train.update.state import pack_optimizer, unpack_optimizer

NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            find_spec(entry.target.partition(".")[0]) is None, reason=f"{entry.package} is not installed"
        ),
    )
    for name, entry in OPTIMIZERS.items()
]
# bitsandbytes tells that it pages nothing on a CPU.
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
SHAPES = {"a": (64, 80), "b.weight": (4, 4), "c": (80, 64)}


def parameters():
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(0.1 * torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def grouped(names, **more):
    first = {name: names[name] for name in ("a", "b.weight")}
    return [
        ParamGroup(name="first", part="unet", params=first, **more),
        ParamGroup(name="second one", part="unet", params={"c": names["c"]}, weight_decay=0.0, **more),
    ]


def rate_for(name):
    return 1e-3 if OPTIMIZERS[name].rate == "given" else 1.0


class Training:
    """Parameters drawn towards 1 by an optimizer, with noise that depends on the step alone."""

    def __init__(self, name, **options):
        self.names = parameters()
        train = TrainOptions(steps=20, lr=rate_for(name), optimizer=OptimizerOptions(name=name, **options))
        groups = grouped(self.names)
        self.optimizer = build_optimizer(groups, train)
        self.rates = [group_rates(group, train) for group in groups]

    def steps(self, first, last):
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            set_rates(self.optimizer, self.rates, lambda step: 1 - step / 20, step)
            for parameter in self.names.values():
                parameter.grad = parameter.detach() - 1 + 0.1 * torch.randn(parameter.shape, generator=generator)
            self.optimizer.step()

    def values(self):
        return {name: parameter.detach().clone() for name, parameter in self.names.items()}

    def packed(self):
        """State and parameters as bytes, as a checkpoint has them."""
        tensors, values = pack_optimizer(self.optimizer, self.names)
        owned = {label: tensor.clone().contiguous() for label, tensor in tensors.items()}
        return save(owned), json.dumps(values), save(self.values())

    def unpack(self, packed):
        tensors, values, weights = packed
        for name, value in load(weights).items():
            self.names[name].data.copy_(value)
        unpack_optimizer(self.optimizer, self.names, load(tensors), json.loads(values))


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_goes_on_from_its_checkpoint_bit_for_bit(name):
    straight, before, after = Training(name), Training(name), Training(name)
    straight.steps(0, 8)
    before.steps(0, 4)
    after.unpack(before.packed())
    after.steps(4, 8)
    assert same(straight.values(), after.values())
    assert straight.packed() == after.packed()
    assert not same(straight.values(), Training(name).values())


@pytest.mark.parametrize("name", NAMES)
def test_the_table_names_the_class_and_arguments_it_has(name):
    entry = OPTIMIZERS[name]
    chosen = choose_optimizer(OptimizerOptions(name=name))
    parameters = inspect.signature(chosen.factory).parameters
    assert f"{chosen.factory.__module__}.{chosen.factory.__name__}" == entry.dotted
    assert set(entry.args) <= set(parameters)
    assert entry.is_fused == ("fused" in parameters)
    assert entry.averages == ({"train", "eval"} <= set(dir(chosen.factory)))
    assert (entry.rate == "factor") == (parameters["lr"].default == 1.0 and name != "sgd_schedulefree")


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_of_the_table_would_be_accepted_from_a_user(name):
    assert choose_optimizer(OptimizerOptions(name=name, args=OPTIMIZERS[name].args)).args == OPTIMIZERS[name].args


@pytest.mark.parametrize("name", [param for param in NAMES if OPTIMIZERS[param.values[0]].averages])
def test_looking_at_the_average_changes_no_bit_of_training(name):
    training, watched = Training(name), Training(name)
    training.steps(0, 9)
    watched.steps(0, 7)
    with averaged_weights(watched.optimizer):
        average = watched.values()
    assert not same(average, watched.values())
    watched.steps(7, 9)
    assert training.packed() == watched.packed()


def test_the_rate_that_prodigy_finds_is_logged():
    pytest.importorskip("prodigyopt")
    training = Training("prodigy")
    training.steps(0, 3)
    rates = logged_rates(training.optimizer)
    assert rates["d*lr/first"] == training.optimizer.param_groups[0]["d"] * rates["first"] > 0


class Averaging(torch.optim.SGD):
    """Has what optimizers of the schedule-free kind have."""

    def train(self):
        pass

    def eval(self):
        pass


@pytest.fixture
def averaging(monkeypatch):
    monkeypatch.setitem(sys.modules, "averaging", ModuleType("averaging"))
    monkeypatch.setattr(sys.modules["averaging"], "Averaging", Averaging, raising=False)


def choose(**options):
    return choose_optimizer(OptimizerOptions(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"args": {"beta": 1}}, "args.beta: adamw has no argument beta; it has betas"),
        ({"args": {"nonsense": 1}}, "has no argument nonsense; it has betas, eps, weight_decay, amsgrad"),
        ({"args": {"amsgrad": "yes"}}, "args.amsgrad: 'yes' must be true or false, as adamw has it"),
        ({"args": {"amsgrad": 1}}, "args.amsgrad: 1 must be true or false"),
        ({"args": {"lr": 1.0}}, "args.lr cannot be given; train.lr gives the learning rate"),
        ({"args": {"eps": 1e-6}, "eps": 1e-6}, "args.eps is train.optimizer.eps; give one of them"),
        ({"betas": [0.9, 0.99, 0.999]}, r"betas: \[0.9, 0.99, 0.999\] must be 2 numbers, e.g. \[0.9, 0.999\]"),
        ({"name": "sgd", "betas": [0.9, 0.9]}, "train.optimizer.betas: sgd has no argument betas"),
        ({"name": "sgd", "args": {"momentum": "much"}}, "args.momentum: 'much' must be a number"),
        ({"name": "muon", "args": {"ns_steps": 1.5}}, "args.ns_steps: 1.5 must be a whole number"),
        ({"name": "adafactor", "eps": 1e-8}, "train.optimizer.eps: 1e-08 must be 2 numbers"),
        ({"name": "torch.optim:Nadam"}, "torch.optim has no optimizer Nadam"),
        ({"name": "torch.nn:Linear"}, "torch.nn has no optimizer Linear"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line_each(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        choose(**options)
    assert len(caught.value.problems) == 1


def test_arguments_reach_the_optimizer():
    options = OptimizerOptions(name="torch.optim:NAdam", weight_decay=0.5, args={"momentum_decay": 0.1})
    optimizer = build_optimizer(grouped(parameters()), TrainOptions(steps=1, optimizer=options))
    assert type(optimizer) is torch.optim.NAdam
    assert [(group["weight_decay"], group["momentum_decay"]) for group in optimizer.param_groups] == [
        (0.5, 0.1),
        (0.0, 0.1),
    ]


def test_a_group_has_its_own_weight_decay_or_the_common_one():
    options = TrainOptions(steps=1, optimizer=OptimizerOptions(weight_decay=0.5))
    assert [group["weight_decay"] for group in build_optimizer(grouped(parameters()), options).param_groups] == [
        0.5,
        0.0,
    ]


@pytest.mark.parametrize(("name", "remedy"), [("prodigy", "sdtune[optim]"), ("adamw8bit", "sdtune[bnb]")])
def test_a_missing_package_is_one_line_with_the_command(name, remedy, monkeypatch):
    entry = OPTIMIZERS[name]
    monkeypatch.setitem(sys.modules, entry.target.partition(":")[0], None)
    with pytest.raises(PlatformError) as caught:
        choose(name=name)
    assert str(caught.value).startswith(f"train.optimizer.name: {name} needs the package {entry.package}")
    assert f"pip install '{remedy}'" in str(caught.value)
    assert caught.value.exit_code == 5


def test_parameters_an_optimizer_cannot_train_are_one_line():
    names = {"bias": nn.Parameter(torch.zeros(3))}
    with pytest.raises(ConfigError, match="muon cannot be used: Muon only supports 2D parameters"):
        build_optimizer(
            [ParamGroup(name="unet", part="unet", params=names)],
            TrainOptions(steps=1, optimizer=OptimizerOptions(name="muon")),
        )


def fit(name, *, lr=1.0, text_lr=None, **more):
    chosen = choose(name=name)
    groups = [
        ParamGroup(name="unet", part="unet", params={}),
        ParamGroup(name="text_encoder", part="text_encoder", params={}, lr=text_lr),
    ]
    check_fit(chosen, groups, TrainOptions(steps=10, lr=lr, optimizer=OptimizerOptions(name=name), **more), 10)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("adafactor_auto", {"lr": 1e-4}, "finds the learning rate itself, but unet has 0.0001; give train.lr=1"),
        ("adafactor_auto", {"text_lr": 0.5}, "one learning rate for all, but there are unet 1, text_encoder 0.5"),
        ("adafactor_auto", {"schedule": ScheduleOptions(name="cosine")}, "needs no schedule, but it is cosine"),
        ("adafactor_auto", {"schedule": ScheduleOptions(warmup=2)}, "warmup has no effect with adafactor_auto"),
        ("averaging:Averaging", {"schedule": ScheduleOptions(name="rex")}, "needs no schedule, but it is rex"),
        ("averaging:Averaging", {"ema": EmaOptions(decay=0.9)}, "averages the weights already"),
        ("adamw", {"schedule": ScheduleOptions(warmup=10)}, "leaves nothing of 10"),
    ],
)
@pytest.mark.usefixtures("averaging")
def test_what_does_not_go_together_is_refused(name, more, message):
    with pytest.raises(ConfigError, match=message):
        fit(name, **more)


@pytest.mark.usefixtures("averaging")
def test_what_goes_together_is_accepted():
    fit("adafactor_auto")
    fit("averaging:Averaging", schedule=ScheduleOptions(warmup="20%"))
    fit("adamw", lr=1e-4, text_lr=1e-5, ema=EmaOptions(decay=0.9))
