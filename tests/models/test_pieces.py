import pytest
import torch

from sdtune.models.base import Conditioning, join_conditionings
from sdtune.models.pieces import emphasize, join_pieces


def states(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def test_emphasis_multiplies_and_restores_the_mean_of_each_piece():
    hidden, weights = states(2, 5, 3), torch.tensor([[1, 1.5, 1.5, 1, 1], [1, 0.2, 1, 1, 1]])
    found = emphasize(hidden, weights)
    for one, before, factors in zip(found, hidden, weights, strict=True):
        scaled = before * factors[:, None]
        torch.testing.assert_close(one, scaled * (before.mean() / scaled.mean()))
        torch.testing.assert_close(one.mean(), before.mean())


def test_emphasis_leaves_a_piece_of_ones_as_it_is_beside_another():
    hidden, weights = states(2, 5, 3), torch.ones(2, 5)
    weights[1, 2] = 1.3
    found = emphasize(hidden, weights)
    assert torch.equal(found[0], hidden[0])
    assert not torch.equal(found[1], hidden[1])
    assert emphasize(hidden, torch.ones(2, 5)) is hidden


def test_emphasis_keeps_the_dtype():
    assert emphasize(states(1, 4, 3).half(), torch.full((1, 4), 1.2)).dtype == torch.float16


def test_emphasis_restores_no_mean_that_is_mere_rounding():
    hidden = states(1, 4, 64)
    hidden -= hidden.mean(2, keepdim=True)
    weights = torch.tensor([[1, 2.0, 1, 1]])
    assert torch.equal(emphasize(hidden, weights), hidden * weights[..., None])


def test_emphasis_gives_gradients_of_its_own_function():
    hidden, weights = states(2, 3, 2).requires_grad_(), torch.tensor([[1, 1.5, 1], [1, 1, 1]])
    found = emphasize(hidden, weights)
    one, two = torch.autograd.grad(found[0].square().sum() + 2 * found[1].sum(), hidden)[0]
    own = hidden[0].detach().requires_grad_()
    scaled = own * weights[0][:, None]
    (expected,) = torch.autograd.grad((scaled * own.mean() / scaled.mean()).square().sum(), own)
    torch.testing.assert_close(one, expected)
    assert torch.equal(two, torch.full_like(two, 2))


def test_pieces_of_a_caption_are_joined_and_the_first_gives_the_pooled_text():
    hidden, pooled = states(4, 5, 3), states(4, 2, seed=1)
    cond = join_pieces(hidden, pooled, [1, 3])
    assert cond.hidden.shape == (2, 15, 3)
    assert torch.equal(cond.hidden[0, :5], hidden[0])
    assert not cond.hidden[0, 5:].any()
    assert torch.equal(cond.hidden[1], hidden[1:].flatten(0, 1))
    assert torch.equal(cond.pooled, pooled[:2])
    assert torch.equal(cond.mask, torch.arange(15) < torch.tensor([[5], [15]]))


def test_pieces_of_equal_count_need_no_mask():
    cond = join_pieces(states(4, 5, 3), None, [2, 2])
    assert cond.mask is None
    assert cond.pooled is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_conditionings_are_joined_whatever_came_joined(order):
    parts = [Conditioning(hidden=states(1, length, 3, seed=length)) for length in (5, 10, 5)]
    together = join_conditionings([parts[place] for place in order])
    in_steps = join_conditionings([join_conditionings([parts[order[0]], parts[order[1]]]), parts[order[2]]])
    assert torch.equal(together.hidden, in_steps.hidden)
    assert torch.equal(together.mask, in_steps.mask)


def test_a_mask_goes_to_the_device():
    cond = join_pieces(states(3, 5, 3), None, [1, 2])
    assert cond.to(torch.device("meta")).mask.device.type == "meta"


def test_a_conditioning_with_pooled_text_is_not_joined_with_one_without():
    hidden = states(1, 5, 3)
    with pytest.raises(ValueError, match="others have none"):
        join_conditionings([Conditioning(hidden=hidden), Conditioning(hidden=hidden, pooled=hidden[:, 0])])
