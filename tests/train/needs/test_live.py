"""Counting bytes that are alive: against sizes known by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import layer_norm, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from sdtune.train.needs.live import LiveBytes

KB = 4 * 256  # 256 float32


def test_what_is_dropped_no_longer_counts():
    with FakeTensorMode(), LiveBytes() as counter:
        first = torch.zeros(256)
        second = first + 1
        del first
        third = second * 2
    assert (counter.live, counter.peak) == (2 * KB, 2 * KB)
    del second, third
    assert counter.live == 0


def test_views_and_changes_in_place_cost_nothing():
    with FakeTensorMode(), LiveBytes() as counter:
        tensor = torch.zeros(256)
        tensor.view(16, 16).t().add_(1)
    assert counter.peak == KB


def test_what_backward_needs_is_alive_until_then():
    with FakeTensorMode(), LiveBytes() as counter:
        weight = torch.ones(256, requires_grad=True)
        loss = (weight.sigmoid()).sum()
        assert counter.live == 2 * KB + 4  # the weight, its sigmoid and the loss
        loss.backward()
        del loss
    assert counter.live == 2 * KB  # the weight and its gradient


def test_attention_keeps_no_matrix_of_scores():
    with FakeTensorMode(), LiveBytes() as counter:
        q = torch.zeros(1, 2, 4096, 32, requires_grad=True)
        scaled_dot_product_attention(q, q, q)
    assert counter.peak < 4 * 4096 * 4096


def test_a_value_that_is_asked_for_is_one():
    with FakeTensorMode(), LiveBytes():
        assert bool((torch.zeros(3) == 0).all()) is True
        assert torch.zeros(3).sum().item() == 1.0
        assert torch.zeros(3, dtype=torch.int64).sum().item() == 1


def test_gradients_of_a_norm_have_the_shapes_they_should():
    x, weight = torch.rand(4, 8, requires_grad=True), torch.rand(8, requires_grad=True)
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes():
        answer = layer_norm(x, (8,), weight)
        found = torch.autograd.grad(answer.sum(), [x, weight])
    assert [tuple(grad.shape) for grad in found] == [(4, 8), (8,)]


def test_operations_are_counted_as_torch_counts_them():
    a, b = torch.rand(8, 16, requires_grad=True), torch.rand(16, 4)
    with FlopCounterMode(display=False) as theirs:
        (a @ b).sum().backward()
    with LiveBytes() as ours:
        (a @ b).sum().backward()
    assert ours.flops == theirs.get_total_flops() == 2 * 2 * 8 * 16 * 4
