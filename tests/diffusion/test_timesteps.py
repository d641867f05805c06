import pytest
import torch

from sdtune.diffusion.timesteps import (
    cumulate,
    draw_timestep,
    listed_shares,
    logit_normal_shares,
    midpoints,
    sigmoid_shares,
)


def drawn(cumulated, first=0, end=1000, count=4000):
    generators = (torch.Generator().manual_seed(seed) for seed in range(count))
    return torch.tensor([draw_timestep(generator, first, end, cumulated) for generator in generators])


def test_logit_normal_shares_are_how_often_the_formula_falls_there():
    shares = logit_normal_shares(10, 0.5, 0.8)
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = (torch.sigmoid(0.5 + 0.8 * z) * 10).long()
    assert float(shares.sum()) == pytest.approx(1)
    torch.testing.assert_close(torch.bincount(places, minlength=10) / len(z), shares.float(), rtol=0, atol=0.005)


def test_logit_normal_with_mean_0_is_symmetric():
    shares = logit_normal_shares(1000, 0.0, 1.0)
    torch.testing.assert_close(shares, shares.flip(0))


def test_a_flat_sigmoid_and_equal_weights_are_uniform():
    assert sigmoid_shares(1000, 0.0, 0.5).unique().numel() == 1
    assert listed_shares(1000, [2.0, 2.0, 2.0]).unique().numel() == 1


def test_a_sigmoid_and_its_mirror_add_up():
    torch.testing.assert_close(
        sigmoid_shares(100, 5.0, 0.5) + sigmoid_shares(100, -5.0, 0.5), torch.ones(100, dtype=torch.float64)
    )


def test_listed_weights_hold_for_equal_stretches():
    shares = listed_shares(1000, [1.0, 0.0, 3.0, 2.0])
    assert shares.view(4, 250).unique(dim=1).flatten().tolist() == [1.0, 0.0, 3.0, 2.0]


def test_a_range_without_shares_cannot_be_summed_up():
    assert cumulate(listed_shares(1000, [1.0, 0.0]), 500, 1000) is None


def test_uniform_is_the_even_draw_to_the_bit():
    expected = [int(torch.randint(20, 900, (), generator=torch.Generator().manual_seed(k))) for k in range(100)]
    assert drawn(None, 20, 900, 100).tolist() == expected


def test_equal_shares_give_the_timesteps_of_the_even_draw():
    flat = cumulate(torch.ones(1000, dtype=torch.float64), 100, 356)  # a power of two: sums are exact
    assert torch.equal(drawn(flat, 100, 356), drawn(None, 100, 356))


@pytest.mark.parametrize(
    "shares", [logit_normal_shares(1000, 1.0, 0.5), sigmoid_shares(1000, 8.0, 0.5), listed_shares(1000, [0, 5, 1, 0])]
)
def test_another_distribution_keeps_the_order_of_samples(shares):
    even, other = drawn(None, count=500), drawn(cumulate(shares, 0, 1000), count=500)
    assert (other[even.argsort(stable=True)].diff()[even.sort().values.diff() > 0] >= 0).all()


@pytest.mark.parametrize("shares", [logit_normal_shares(1000, -0.5, 1.0), sigmoid_shares(1000, 8.0, 0.3)])
def test_timesteps_come_as_often_as_their_shares_say(shares):
    cumulated = cumulate(shares, 200, 800)
    counts = torch.histc(drawn(cumulated, 200, 800).double(), bins=20, min=200, max=800)
    wanted = shares[200:800].view(20, 30).sum(1) / shares[200:800].sum() * 4000
    assert float(((counts - wanted) ** 2 / wanted).sum()) < 43.8  # chi-square, 19 degrees of freedom: 0.1 % above


def test_a_timestep_without_a_share_never_comes():
    found = drawn(cumulate(listed_shares(1000, [0, 1, 0, 1, 0]), 0, 1000))
    assert set((found // 200).tolist()) == {1, 3}


def test_both_ends_of_the_range_are_reached():
    found = drawn(cumulate(listed_shares(1000, [1.0]), 997, 1000), 997, 1000, 200)
    assert set(found.tolist()) == {997, 998, 999}


@pytest.mark.parametrize(("parts", "middles"), [(1, [500]), (2, [250, 750]), (4, [125, 375, 625, 875])])
def test_midpoints_lie_in_the_middle_of_equal_parts(parts, middles):
    assert midpoints(0, 1000, parts) == middles


def test_midpoints_stay_in_the_range():
    assert midpoints(200, 203, 8) == [200, 200, 200, 201, 201, 202, 202, 202]
