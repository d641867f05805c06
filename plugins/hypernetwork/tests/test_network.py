from itertools import pairwise

import pytest
import torch
from torch import nn

from sdtune.api import ConfigError
from sdtune_hypernetwork.config import ACTIVATIONS
from sdtune_hypernetwork.network import ContextNetwork, Form, Hypernetwork, make_activation

WIDTH = 6
INITS = ("Normal", "KaimingUniform", "KaimingNormal", "XavierUniform", "XavierNormal")


def drawn(init="Normal", width=WIDTH, seed=0, **form):
    network = Hypernetwork((width,), Form(**form))
    network.reset(init, seed)
    return network


def members(**form):
    return [type(member).__name__ for member in ContextNetwork(WIDTH, Form(**form)).linear]


@pytest.mark.parametrize(
    ("form", "linear", "norm"),
    [
        ({}, [0, 1], []),
        ({"activation": "relu"}, [0, 2], []),
        ({"activation": "relu", "layer_norm": True}, [0, 3], [2, 4]),
        ({"activation": "relu", "layer_norm": True, "activate_output": True}, [0, 3], [2, 5]),
        ({"activation": "relu", "dropout": (0, 0.3, 0)}, [0, 3], []),
        ({"structure": (1, 1)}, [0], []),
    ],
)
def test_members_stand_where_webui_counts_them(form, linear, norm):
    form.setdefault("dropout", (0,) * len(form.get("structure", (1, 2, 1))))
    found = members(**form)
    assert [index for index, name in enumerate(found) if name == "Linear"] == linear
    assert [index for index, name in enumerate(found) if name == "LayerNorm"] == norm


def test_all_kinds_of_members_in_their_order():
    found = members(activation="swish", layer_norm=True, dropout=(0, 0.1, 0))
    assert found == ["Linear", "Hardswish", "LayerNorm", "Dropout", "Linear", "LayerNorm"]


def test_widths_are_rounded_down():
    network = ContextNetwork(7, Form(structure=(1, 1.5, 0.5, 1), dropout=(0,) * 4))
    widths = [(member.in_features, member.out_features) for member in network.linear]
    assert widths == [(7, 10), (10, 3), (3, 7)]


def test_a_width_of_nothing_is_told():
    with pytest.raises(ConfigError, match=r"0\.1 leaves no neuron of a context of width 6"):
        Hypernetwork((WIDTH,), Form(structure=(1, 0.1, 1)))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_runs_in_a_network(name):
    network = drawn(activation=name).network(WIDTH, "k")
    assert network(torch.randn(2, 3, WIDTH)).shape == (2, 3, WIDTH)


def test_t17_swish_is_hardswish():
    assert isinstance(make_activation("swish"), nn.Hardswish)
    assert isinstance(make_activation("silu"), nn.SiLU)


@pytest.mark.parametrize("init", INITS)
def test_t17_layer_norms_begin_as_webui_begins_them(init):
    network = drawn(init, width=400, layer_norm=True).network(400, "v")
    norm = network.linear[1]
    assert isinstance(norm, nn.LayerNorm)
    assert norm.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert abs(norm.weight.mean().item()) < 0.002
    assert not norm.bias.any()


@pytest.mark.parametrize(
    ("init", "activation", "deviation"),
    [
        ("Normal", "relu", 0.01),
        ("KaimingUniform", "relu", (2 / 200) ** 0.5),
        ("KaimingNormal", "linear", (2 / 200) ** 0.5),
        ("KaimingNormal", "leakyrelu", (2 / (1 + 0.01**2) / 200) ** 0.5),
        ("XavierUniform", "relu", (2 / (200 + 400)) ** 0.5),
        ("XavierNormal", "relu", (2 / (200 + 400)) ** 0.5),
    ],
)
def test_linear_layers_begin_with_the_deviation_of_their_rule(init, activation, deviation):
    layer = drawn(init, width=200, activation=activation).network(200, "k").linear[0]
    assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert (layer.weight.abs().max() <= deviation * 3**0.5 * 1.001) == init.endswith("Uniform")
    assert not layer.bias.any()


def test_a_network_begins_the_same_whatever_else_there_is():
    alone, both = drawn(), Hypernetwork((4, WIDTH), Form())
    both.reset("Normal", 0)
    other = drawn(seed=1).network(WIDTH, "k").linear[0].weight
    first = alone.network(WIDTH, "k").linear[0].weight
    assert torch.equal(first, both.network(WIDTH, "k").linear[0].weight)
    assert not torch.equal(first, alone.network(WIDTH, "v").linear[0].weight)
    assert not torch.equal(first, other)


def test_making_a_network_draws_nothing_from_torchs_generator():
    before = torch.get_rng_state()
    drawn(layer_norm=True)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(dtype):
    network = drawn("XavierNormal", activation="prelu", layer_norm=True, activate_output=True).network(WIDTH, "k")
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 3, WIDTH).to(dtype)
    found = network(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), network(x.float()), rtol=0.05, atol=0.03)


def test_trained_are_linear_layers_and_norms_by_stable_names():
    network = drawn(activation="prelu", layer_norm=True)
    names = [name for name, _ in network.learned()]
    assert names[:4] == ["6.k.linear.0.weight", "6.k.linear.0.bias", "6.k.linear.2.weight", "6.k.linear.2.bias"]
    assert len(names) == 2 * 2 * 4
    assert not any("linear.1." in name for name in names)


def test_sizes_that_are_not_kept_are_gone():
    network = Hypernetwork((4, 6, 8), Form())
    network.keep((8, 4, 99))
    assert network.sizes == (4, 8)
    assert 6 not in network
    assert {name.split(".")[0] for name, _ in network.learned()} == {"4", "8"}


def test_layers_follow_one_another():
    network = ContextNetwork(WIDTH, Form(structure=(1, 2, 3, 1), activation="tanh", dropout=(0, 0.5, 0.1, 0)))
    linears = [member for member in network.linear if isinstance(member, nn.Linear)]
    assert all(one.out_features == two.in_features for one, two in pairwise(linears))
