import pytest
import torch
from torch import nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from sdtune_lycoris.algorithms import Settings
from sdtune_lycoris.algorithms.loha import HadamardProduct
from sdtune_lycoris.layers import LycorisLayer

BASES = {
    "linear": (lambda: nn.Linear(24, 32), (2, 5, 24)),
    "linear without bias": (lambda: nn.Linear(24, 32, bias=False), (3, 24)),
    "conv 1x1": (lambda: nn.Conv2d(24, 32, 1), (2, 24, 3, 4)),
    "conv 3x3": (lambda: nn.Conv2d(24, 32, 3, padding=1), (2, 24, 5, 4)),
    "conv 3x3 stride 2": (lambda: nn.Conv2d(24, 32, 3, stride=2, padding=1, bias=False), (2, 24, 6, 4)),
}
SMALL = {"rank": 4, "alpha": 2.0}
CASES = {
    "locon": {"algo": "locon", **SMALL},
    "locon, scalar": {"algo": "locon", **SMALL, "scalar": True},
    "locon, rs_lora": {"algo": "locon", **SMALL, "rs_lora": True},
    "locon, tucker": {"algo": "locon", **SMALL, "tucker": True},
    "locon, dora": {"algo": "locon", **SMALL, "weight_decompose": True},
    "loha": {"algo": "loha", **SMALL},
    "loha, scalar, rs_lora": {"algo": "loha", **SMALL, "scalar": True, "rs_lora": True},
    "loha, tucker": {"algo": "loha", **SMALL, "tucker": True},
    "loha, dora": {"algo": "loha", **SMALL, "weight_decompose": True},
    "lokr": {"algo": "lokr", "rank": 2, "alpha": 1.0},
    "lokr, factor": {"algo": "lokr", "rank": 2, "alpha": 1.0, "factor": 2},
    "lokr, large rank": {"algo": "lokr", "rank": 8, "alpha": 1.0},
    "lokr, full_matrix": {"algo": "lokr", **SMALL, "full_matrix": True},
    "lokr, decompose_both": {"algo": "lokr", "rank": 1, "alpha": 0.5, "decompose_both": True},
    "lokr, scalar, rs_lora": {"algo": "lokr", "rank": 2, "alpha": 1.0, "scalar": True, "rs_lora": True},
    "lokr, tucker": {"algo": "lokr", "rank": 2, "alpha": 1.0, "tucker": True},
    "lokr, tucker, decompose_both, scalar": {
        "algo": "lokr", "rank": 1, "alpha": 0.5, "tucker": True, "decompose_both": True, "scalar": True
    },
    "lokr, dora": {"algo": "lokr", "rank": 2, "alpha": 1.0, "weight_decompose": True},
    "ia3": {"algo": "ia3"},
    "ia3, on_input": {"algo": "ia3", "on_input": True},
    "full": {"algo": "full", "has_bias": True},
    "glora": {"algo": "glora", **SMALL},
    "glora, scalar, rs_lora": {"algo": "glora", **SMALL, "scalar": True, "rs_lora": True},
    "diag-oft": {"algo": "diag-oft", "rank": 4},
    "diag-oft, constraint": {"algo": "diag-oft", "rank": 4, "constraint": 0.01},
    "diag-oft, rescaled": {"algo": "diag-oft", "rank": 4, "rescaled": True},
    "boft": {"algo": "boft", "rank": 4},
    "boft, constraint": {"algo": "boft", "rank": 4, "constraint": 0.01},
    "boft, rescaled": {"algo": "boft", "rank": 8, "rescaled": True},
}  # fmt: skip


def suits(base, case):
    return not (
        (CASES[case]["algo"] == "glora" and "conv" in base)
        or (CASES[case].get("tucker") and "3x3" not in base)
        or (CASES[case].get("has_bias") and ("without" in base or "stride" in base))
    )


PAIRS = [(base, case) for base in BASES for case in CASES if suits(base, case)]
every_pair = pytest.mark.parametrize(("base", "case"), PAIRS)


def make(base, case, *, trained=True, dtype=torch.float32):
    """Give a layer, with random factors if trained, and an input."""
    torch.manual_seed(0)
    build, shape = BASES[base]
    layer = LycorisLayer(build().to(dtype), Settings(**CASES[case]), torch.Generator().manual_seed(1))
    x = torch.randn(shape).to(dtype)
    if trained:
        with torch.no_grad():
            for parameter in layer.factors.values():
                parameter.add_(torch.randn(parameter.shape) * 0.3)
    return layer, x


def apply(layer, x, weight, bias):
    base = layer.base
    if isinstance(base, nn.Linear):
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, base.stride, base.padding)


@every_pair
def test_a_fresh_layer_answers_as_the_frozen_one_to_the_last_bit(base, case):
    layer, x = make(base, case, trained=False)
    assert torch.equal(layer(x), layer.base(x))
    assert not layer.delta_weight().any()


@every_pair
def test_forward_applies_the_frozen_weight_plus_delta(base, case):
    layer, x = make(base, case)
    bias, delta_bias = layer.bias, layer.delta_bias()
    bias = bias if delta_bias is None else bias + delta_bias
    delta = layer.delta_weight()
    assert delta.norm() > 1e-3
    torch.testing.assert_close(layer(x), apply(layer, x, layer.weight + delta, bias), rtol=1e-4, atol=1e-4)


@every_pair
def test_gradients_are_those_of_the_frozen_weight_plus_delta(base, case):
    layer, x = make(base, case)
    names = [name for name in layer.factors if name != "diff_b"]
    factors = [layer.factors[name] for name in names]
    if layer.settings.weight_decompose:  # its norm is a constant to the gradient of the factors before
        names, factors = ["dora_scale"], [layer.factors["dora_scale"]]
    found = torch.autograd.grad(layer(x).square().sum(), factors)
    bias = layer.bias if layer.delta_bias() is None else layer.bias + layer.delta_bias()
    expected = torch.autograd.grad(apply(layer, x, layer.weight + layer.delta_weight(), bias).square().sum(), factors)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


@every_pair
def test_bfloat16_is_near_float32(base, case):
    layer, x = make(base, case, dtype=torch.bfloat16)
    found = layer(x)
    layer.base.float()
    expected = layer(x.float())
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.02 * expected.norm()


def test_the_hadamard_product_has_the_gradient_of_separate_operations():
    torch.manual_seed(0)
    shapes = [(3, 2), (2, 4), (3, 2), (2, 4)]
    assert gradcheck(HadamardProduct.apply, [torch.randn(s, dtype=torch.double, requires_grad=True) for s in shapes])
