"""Moving parameters one by one, and keeping them in bfloat16."""

import pytest
import torch
from torch import nn

from sdtune.config.optimizer import OptimizerOptions
from sdtune.config.optimizers import OPTIMIZERS
from sdtune.config.train import TrainOptions
from sdtune.errors import PlatformError
from sdtune.train.method import ParamGroup
from sdtune.train.update.optimizers import build_optimizer, choose_optimizer
from sdtune.train.update.state import pack_optimizer, unpack_optimizer
from sdtune.train.update.stepping import Stepper, Store, narrow

APART = [name for name, entry in OPTIMIZERS.items() if not entry.is_joint]


def groups_of(*, shapes=((24, 200), (16, 8), (8, 8))):
    draw = torch.Generator().manual_seed(1)
    params = {f"unet.{k}.weight": nn.Parameter(torch.randn(shape, generator=draw)) for k, shape in enumerate(shapes)}
    first = dict(list(params.items())[:1])
    rest = dict(list(params.items())[1:])
    return [
        ParamGroup(name="first", part="unet", params=first, lr=1e-2),
        ParamGroup(name="rest", part="unet", params=rest, lr=1e-3),
    ]


def parameters_of(groups):
    return {name: parameter for group in groups for name, parameter in group.params.items()}


def build(name, groups, *, store=None):
    options = TrainOptions(steps=10, lr=1.0, optimizer=OptimizerOptions(name=name))
    try:
        optimizer = build_optimizer(groups, options)
    except PlatformError:
        pytest.skip("not installed here")
    return optimizer, Stepper(optimizer, parameters_of(groups), store)


def give_gradients(parameters, step):
    for number, parameter in enumerate(parameters.values()):
        draw = torch.Generator().manual_seed(100 * step + number)
        parameter.grad = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)


@pytest.mark.filterwarnings("ignore:Paged optimizers:UserWarning")  # said of the CPU
@pytest.mark.parametrize("name", APART)
def test_one_after_another_is_all_together(name):
    answers = []
    for is_apart in (False, True):
        groups = groups_of()
        optimizer, stepper = build(name, groups)
        for step in range(4):
            give_gradients(parameters_of(groups), step)
            (stepper.move_each if is_apart else stepper.move_all)(step)
        answers.append((parameters_of(groups), pack_optimizer(optimizer, parameters_of(groups))))
    (one, (tensors, values)), (two, (other_tensors, other_values)) = answers
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert tensors.keys() == other_tensors.keys()
    assert values == other_values
    assert all(torch.equal(tensors[key], other_tensors[key]) for key in tensors)


def test_gradients_are_gone_one_by_one():
    groups = groups_of()
    _, stepper = build("adamw", groups)
    parameters = parameters_of(groups)
    give_gradients(parameters, 0)
    stepper.move("unet.0.weight", 0)
    assert [parameter.grad is None for parameter in parameters.values()] == [True, False, False]


@pytest.mark.filterwarnings("ignore:Paged optimizers:UserWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_weights_in_bfloat16_as_it_does_in_float32(name):
    wide, short = groups_of(), groups_of()
    narrow(short)
    for exact, own in zip(parameters_of(wide).values(), parameters_of(short).values(), strict=True):
        exact.data = own.data.float()
    store = Store(0, holds_state=not OPTIMIZERS[name].has_own_state)
    for groups, keeper in ((wide, None), (short, store)):
        _, stepper = build(name, groups, store=keeper)
        for step in range(3):
            give_gradients(parameters_of(short), step)
            for exact, own in zip(parameters_of(wide).values(), parameters_of(short).values(), strict=True):
                exact.grad = own.grad.float()
            for parameter in parameters_of(wide if groups is short else short).values():
                parameter.grad = None
            (stepper.move_all if OPTIMIZERS[name].is_joint else stepper.move_each)(step)
    for exact, own in zip(parameters_of(wide).values(), parameters_of(short).values(), strict=True):
        assert own.dtype == torch.bfloat16
        # three roundings of at most one last place each, and what the rounded state does to the steps
        assert float((own.detach().float() - exact.detach()).abs().max()) <= 4 * 2**-7 * float(
            exact.detach().abs().max()
        )


def test_the_state_is_in_bfloat16_but_for_counts():
    groups = groups_of()
    narrow(groups)
    optimizer, stepper = build("adamw", groups, store=Store(0, holds_state=True))
    give_gradients(parameters_of(groups), 0)
    stepper.move_each(0)
    state = next(iter(optimizer.state.values()))
    assert {key: value.dtype for key, value in state.items()} == {
        "step": torch.float32,
        "exp_avg": torch.bfloat16,
        "exp_avg_sq": torch.bfloat16,
    }


def test_small_steps_are_not_lost_in_bfloat16():
    """Towards 2 by steps of 1e-4, of which nearest rounding loses each."""
    moved = {}
    for is_stochastic in (False, True):
        weight = nn.Parameter(torch.ones(1000, dtype=torch.bfloat16))
        optimizer = torch.optim.SGD([{"params": [weight], "name": "w"}], lr=1e-4)
        stepper = Stepper(optimizer, {"w": weight}, Store(0, holds_state=True) if is_stochastic else None)
        for step in range(500):
            weight.grad = -torch.ones_like(weight)
            stepper.move("w", step)
        moved[is_stochastic] = float((weight.detach().float() - 1).mean())
    assert moved[False] == 0
    assert moved[True] == pytest.approx(500 * 1e-4, rel=0.03)


def test_a_second_moment_in_bfloat16_goes_on_learning():
    """With betas of 0.9 and 0.999 and gradients that halve, v must fall by a thousandth a step."""
    weight = nn.Parameter(torch.zeros(4000, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([{"params": [weight], "name": "w"}], lr=0.0)
    stepper = Stepper(optimizer, {"w": weight}, Store(0, holds_state=True))
    weight.grad = torch.ones_like(weight)
    stepper.move("w", 0)
    optimizer.state[weight]["exp_avg_sq"].fill_(1.0)
    for step in range(1, 301):
        weight.grad = torch.zeros_like(weight)
        stepper.move("w", step)
    assert float(optimizer.state[weight]["exp_avg_sq"].float().mean()) == pytest.approx(0.999**300, rel=0.01)


def test_a_packed_state_goes_on_bit_by_bit():
    straight, stopped = groups_of(), groups_of()
    for groups in (straight, stopped):
        narrow(groups)
    _, stepper = build("adamw", straight, store=Store(5, holds_state=True))
    for step in range(4):
        give_gradients(parameters_of(straight), step)
        stepper.move_each(step)
    optimizer, stepper = build("adamw", stopped, store=Store(5, holds_state=True))
    for step in range(2):
        give_gradients(parameters_of(stopped), step)
        stepper.move_each(step)
    tensors, values = pack_optimizer(optimizer, parameters_of(stopped))
    optimizer, stepper = build("adamw", stopped, store=Store(5, holds_state=True))
    unpack_optimizer(optimizer, parameters_of(stopped), {key: t.clone() for key, t in tensors.items()}, values)
    for step in range(2, 4):
        give_gradients(parameters_of(stopped), step)
        stepper.move_each(step)
    one, two = parameters_of(straight), parameters_of(stopped)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_unknown_classes_are_taken_to_look_at_all_parameters():
    assert choose_optimizer(OptimizerOptions(name="torch.optim:NAdam")).entry.is_joint
    assert not choose_optimizer(OptimizerOptions(name="adamw")).entry.is_joint
