"""Layers that stand still, and how far the others go."""

import pytest
import torch
from torch import nn

from sdtune.train.method import ParamGroup
from sdtune.train.watching.movement import Movement


def make_group(**values):
    params = {f"unet.{name}.weight": nn.Parameter(value) for name, value in values.items()}
    return ParamGroup(name="unet", part="unet", params=params)


def look(movement, group, gradients, rate=0.1):
    """One step of plain gradient descent, looked at."""
    movement.begin()
    for parameter, gradient in zip(group.params.values(), gradients, strict=True):
        parameter.grad = gradient
    movement.see_gradients()
    with torch.no_grad():
        for parameter in group.params.values():
            if parameter.grad is not None:
                parameter -= (rate * parameter.grad).to(parameter.dtype)
    movement.end()


def test_the_ratio_is_that_of_the_means():
    group = make_group(a=torch.full((4,), 2.0), b=torch.full((4,), 1.0))
    movement = Movement([group])
    look(movement, group, [torch.full((4,), 10.0), torch.zeros(4)])
    assert movement.read_ratios() == {"unet": pytest.approx(0.5 / 1.0)}
    assert movement.read_ratios() == {}


def test_layers_without_gradients_are_named():
    group = make_group(a=torch.ones(4), b=torch.ones(4), c=torch.ones(4))
    movement = Movement([group])
    look(movement, group, [torch.ones(4), torch.zeros(4), None])
    found = movement.standstill()
    assert (found.layers, found.without_gradient, found.unmoved) == (3, ("unet.b", "unet.c"), ())
    assert movement.standstill().without_gradient == ("unet.a", "unet.b", "unet.c")  # it began anew


def test_one_gradient_in_any_look_is_enough():
    group = make_group(a=torch.ones(4), b=torch.ones(4))
    movement = Movement([group])
    look(movement, group, [torch.ones(4), torch.zeros(4)])
    look(movement, group, [torch.zeros(4), torch.ones(4)])
    assert movement.standstill().without_gradient == ()


def test_values_too_coarse_for_their_updates_are_named():
    group = make_group(a=torch.ones(4, dtype=torch.bfloat16), b=torch.ones(4))
    movement = Movement([group])
    look(movement, group, [torch.ones(4, dtype=torch.bfloat16), torch.ones(4)], rate=1e-4)
    assert movement.standstill().unmoved == ("unet.a",)


def test_a_frozen_layer_is_not_missed():
    group = make_group(a=torch.ones(4), b=torch.ones(4))
    movement = Movement([group])
    group.params["unet.b.weight"].requires_grad_(False)
    look(movement, group, [torch.ones(4), None])
    assert movement.standstill().without_gradient == ()


def test_rows_that_no_caption_used_are_no_standstill():
    table = torch.zeros(5000, 8)
    group = make_group(a=table)
    movement = Movement([group])
    gradient = torch.zeros(5000, 8)
    gradient[1, 3] = 1  # between the samples
    look(movement, group, [gradient])
    found = movement.standstill()
    assert (found.without_gradient, found.unmoved) == ((), ())
