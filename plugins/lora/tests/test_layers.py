import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sdtune_lora.layers import Dropouts, LoraLayer

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear without bias, tokens": (lambda: nn.Linear(6, 5, bias=False), (2, 4, 6)),
    "linear, 4-D": (lambda: nn.Linear(6, 5), (2, 3, 2, 6)),
    "conv 1x1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 3, 2)),
    "conv 3x3": (lambda: nn.Conv2d(6, 5, 3, padding=1), (2, 6, 3, 4)),
    "conv 3x3 stride 2": (lambda: nn.Conv2d(6, 5, 3, stride=2, padding=1), (2, 6, 5, 4)),
    "conv 3x3 dilated, no bias": (lambda: nn.Conv2d(6, 5, 3, padding=2, dilation=2, bias=False), (1, 6, 5, 4)),
    "conv 1x1 stride 2": (lambda: nn.Conv2d(6, 5, 1, stride=2), (2, 6, 4, 3)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def make(name, *, dtype=torch.float32, dropouts=None, trained=True):
    """Give a layer with rank 3, alpha 2, and an input."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = LoraLayer(build().to(dtype), rank=3, alpha=2.0, dropouts=dropouts)
    layer.reset(torch.Generator().manual_seed(1))
    if trained:
        nn.init.normal_(layer.lora_up)
    return layer, torch.randn(shape).to(dtype)


def plain(layer, x):
    """Compute the layer's answer by separate operations."""
    base, dtype = layer.base, x.dtype
    down, up = layer.lora_down.to(dtype), layer.lora_up.to(dtype)
    if isinstance(base, nn.Linear):
        return base(x) + F.linear(F.linear(x, down), up) * layer.scale
    h = F.conv2d(x, down, None, base.stride, base.padding, base.dilation)
    return base(x) + F.conv2d(h, up) * layer.scale


def gradients(function, layer, x):
    """Give the answer, and the gradients of input, down and up for a fixed gradient of the answer."""
    x = x.detach().requires_grad_()
    y = function(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, layer.lora_down, layer.lora_up], weight)]


@every_layer
def test_backward_is_the_derivative_of_forward(name):
    layer, x = make(name)
    layer = layer.double()

    def apply(x, down, up):
        return functional_call(layer, {"lora_down": down, "lora_up": up}, x)

    assert gradcheck(apply, (x.double().requires_grad_(), layer.lora_down, layer.lora_up))


@every_layer
def test_equals_separate_operations(name):
    layer, x = make(name)
    expected = gradients(lambda x: plain(layer, x), layer, x)
    torch.testing.assert_close(gradients(layer, layer, x), expected)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_float32(name, dtype):
    layer, x = make(name, dtype=dtype)
    found = gradients(layer, layer, x)
    layer.base.float()
    expected = gradients(layer, layer, x.float())
    torch.testing.assert_close([value.float() for value in found], expected, rtol=0.05, atol=0.06)
    assert [value.dtype for value in found] == [dtype, dtype, torch.float32, torch.float32]


@every_layer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_layer_changes_no_bit(name, dtype):
    layer, x = make(name, dtype=dtype, trained=False)
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.slow  # importing peft takes seconds
@pytest.mark.parametrize("name", [name for name in LAYERS if "dilated" not in name])  # peft 0.21 forgets dilation
def test_equals_peft(name):
    peft = pytest.importorskip("peft")
    layer, x = make(name)
    network = nn.Sequential(layer.base)
    config = peft.LoraConfig(r=layer.rank, lora_alpha=layer.alpha, target_modules=["0"])
    theirs = peft.inject_adapter_in_model(config, network)[0]
    down, up = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    with torch.no_grad():
        down.copy_(layer.lora_down)
        up.copy_(layer.lora_up)
    found = gradients(layer, layer, x)
    x = x.detach().requires_grad_()
    y = theirs(x)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(found, [y, *torch.autograd.grad(y, [x, down, up], weight)])


@every_layer
def test_the_change_is_the_change_of_the_weight(name):
    layer, x = make(name)
    expected = layer(x)
    with torch.no_grad():
        layer.base.weight += layer.delta_weight()
    torch.testing.assert_close(layer.base(x), expected)


@every_layer
def test_an_input_without_gradient_gets_none(name):
    layer, x = make(name)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.base.weight.grad is None
    assert layer.lora_down.grad.dtype == layer.lora_up.grad.dtype == torch.float32


@pytest.mark.parametrize("name", ["linear without bias, tokens", "conv 1x1", "conv 3x3"])
def test_an_input_not_contiguous_in_memory_gives_the_same(name):
    layer, x = make(name)
    turned = x.transpose(1, -1).contiguous().transpose(1, -1)
    assert not turned.is_contiguous()
    torch.testing.assert_close(gradients(layer, layer, turned), gradients(layer, layer, x))


@pytest.mark.parametrize("name", ["conv 1x1", "conv 3x3"])
def test_channels_last_gives_the_same(name):
    layer, x = make(name)
    turned = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(gradients(layer, layer, turned), gradients(layer, layer, x))


def test_a_layer_used_twice_sums_its_gradients():
    square = LoraLayer(nn.Linear(4, 4), rank=2, alpha=2.0)
    for parameter in (square.lora_down, square.lora_up):
        nn.init.normal_(parameter)
    x = torch.randn(3, 4)
    expected = gradients(lambda x: plain(square, plain(square, x)), square, x)
    torch.testing.assert_close(gradients(lambda x: square(square(x)), square, x), expected)


@pytest.mark.parametrize("dropouts", [None, Dropouts(element=0.5, rank=0.3, module=0.2)])
@every_layer
def test_checkpointing_changes_no_gradient(name, dropouts):
    layer, x = make(name, dropouts=dropouts)
    torch.manual_seed(7)
    expected = gradients(layer, layer, x)
    torch.manual_seed(7)
    found = gradients(lambda x: checkpoint(layer, x, use_reentrant=False), layer, x)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@every_layer
def test_keeps_only_the_input_and_its_projection_for_backward(name):
    layer, x = make(name)
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x.requires_grad_())
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    h = y.numel() // len(layer.base.weight) * layer.rank
    assert sum(size for pointer, size in kept.items() if pointer not in own) == x.numel() + h


def test_evaluation_drops_nothing():
    layer, x = make("linear", dropouts=Dropouts(element=0.9, rank=0.9, module=0.9))
    assert torch.equal(layer.eval()(x), make("linear")[0](x))


def test_element_dropout_keeps_the_mean():
    layer, x = make("linear", dropouts=Dropouts(element=0.5))
    many = x[:1].expand(20_000, -1)
    torch.testing.assert_close(layer(many).mean(0), plain(layer, x)[0], rtol=0, atol=0.1)


@pytest.mark.parametrize("name", ["linear without bias, tokens", "conv 3x3"])
def test_rank_dropout_keeps_the_mean(name):
    layer, x = make(name, dropouts=Dropouts(rank=0.5))
    many = x[:1].expand(20_000, *x.shape[1:])
    torch.testing.assert_close(layer(many).mean(0), plain(layer, x)[0], rtol=0, atol=0.1)


def test_rank_dropout_leaves_whole_ranks_of_a_sample_out():
    layer, _ = make("linear without bias, tokens", dropouts=Dropouts(rank=0.5))
    layer.base.weight.zero_()
    with torch.no_grad():
        layer.lora_down.copy_(torch.eye(3, 6))
        layer.lora_up.copy_(torch.eye(5, 3))
    y = layer(torch.ones(40, 4, 6))[..., :3] / layer.scale
    assert set(y.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(y, y[:, :1].expand_as(y))


def test_module_dropout_leaves_the_change_out_as_often_as_said():
    layer, x = make("linear", dropouts=Dropouts(module=0.25))
    without = sum(torch.equal(layer(x), layer.base(x)) for _ in range(1000))
    assert 200 < without < 300


@every_layer
def test_limit_norm_shrinks_to_the_limit(name):
    layer, _ = make(name)
    before = layer.delta_weight().clone()
    norm = layer.limit_norm(0.5)
    torch.testing.assert_close(norm, before.norm())
    torch.testing.assert_close(layer.delta_weight(), before * 0.5 / before.norm())


def test_limit_norm_leaves_what_is_below():
    layer, _ = make("linear")
    before = [parameter.clone() for parameter in (layer.lora_down, layer.lora_up)]
    layer.limit_norm(1e6)
    assert torch.equal(layer.lora_down, before[0])
    assert torch.equal(layer.lora_up, before[1])


def test_limit_norm_leaves_a_fresh_layer():
    layer, _ = make("linear", trained=False)
    before = layer.lora_down.clone()
    layer.limit_norm(1.0)
    assert torch.equal(layer.lora_down, before)


def test_down_starts_as_a_linear_layer_does():
    layer = LoraLayer(nn.Linear(300, 200), rank=100, alpha=1.0)
    layer.reset(torch.Generator().manual_seed(0))
    # Kaiming uniform with a = sqrt(5): bound 1 / sqrt(fan_in)
    assert layer.lora_down.abs().max().item() == pytest.approx(300**-0.5, rel=1e-3)
    assert layer.lora_down.std().item() == pytest.approx(300**-0.5 / 3**0.5, rel=0.02)
    assert not layer.lora_up.any()
