import torch
from torch import nn

from sdtune_hypernetwork.layers import Change, ContextLayer
from sdtune_hypernetwork.network import Form, Hypernetwork


def make(seed, dropout=(0, 0, 0)):
    network = Hypernetwork((6,), Form(dropout=dropout))
    network.reset("XavierNormal", seed)
    return network.network(6, "k")


def test_changes_act_in_order_each_on_what_the_one_before_gave():
    first, second, base = make(1), make(2), nn.Linear(6, 5)
    x = torch.randn(2, 3, 6)
    middle = x + 0.5 * first(x)
    layer = ContextLayer(base, [Change(first, 0.5), Change(second, 2.0)], second)
    torch.testing.assert_close(layer(x), base(middle + 2.0 * second(middle)), rtol=0, atol=0)
    turned = ContextLayer(base, [Change(second, 2.0), Change(first, 0.5)], second)
    assert not torch.allclose(turned(x), layer(x))


def test_a_layer_without_changes_is_the_layer():
    base, x = nn.Linear(6, 5), torch.randn(2, 3, 6)
    assert torch.equal(ContextLayer(base, [])(x), base(x))


def test_only_the_trained_network_follows_the_model_into_training():
    chained, trained = make(1, (0, 0.5, 0)).eval(), make(2, (0, 0.5, 0))
    layer = ContextLayer(nn.Linear(6, 5), [Change(chained, 1.0), Change(trained, 1.0)], trained)
    assert not layer.eval().trained.training
    assert layer.train().trained.training
    assert not chained.training
    assert all(name.startswith(("base", "trained")) for name, _ in layer.named_parameters())
