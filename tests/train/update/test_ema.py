"""The running average of the weights."""

import pytest
import torch
from torch import nn

from sdtune.train.update.ema import Ema


@pytest.fixture
def parameters():
    return {"a": nn.Parameter(torch.randn(3, 4)), "b": nn.Parameter(torch.randn(5))}


def walk(ema, parameters, steps):
    """Change the parameters step by step, and keep all values of `a`."""
    seen = [parameters["a"].detach().clone()]
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in parameters.values():
                parameter.add_(torch.randn_like(parameter))
        ema.update(step)
        seen.append(parameters["a"].detach().clone())
    return seen


@pytest.mark.slow
def test_the_average_equals_the_recursion_by_hand(parameters):
    ema = Ema(parameters, decay=0.9, power=None)
    seen = walk(ema, parameters, 5)
    by_hand = seen[0]
    for value in seen[1:]:
        by_hand = 0.9 * by_hand + 0.1 * value
    assert torch.allclose(ema.average["a"], by_hand, atol=1e-6)


def test_warmup_grows_to_the_decay(parameters):
    ema = Ema(parameters, decay=0.95, power=2 / 3)
    assert ema.decay(1) == pytest.approx(1 - 2 ** (-2 / 3))
    assert ema.decay(10**6) == 0.95


def test_a_swap_leaves_the_last_bit_as_it_was(parameters):
    ema = Ema(parameters, decay=0.5, power=None)
    walk(ema, parameters, 3)
    live = {name: p.detach().clone() for name, p in parameters.items()}
    with ema.swapped():
        assert all(torch.equal(p, ema.average[name]) for name, p in parameters.items())
    assert all(torch.equal(p, live[name]) for name, p in parameters.items())


def test_a_swap_ends_also_after_an_error(parameters):
    ema = Ema(parameters, decay=0.5, power=None)
    seen = walk(ema, parameters, 2)
    with pytest.raises(RuntimeError), ema.swapped():
        raise RuntimeError
    assert torch.equal(parameters["a"], seen[-1])
