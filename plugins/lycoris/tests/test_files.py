"""Files against A1111's rules (docs/export.md), written here a second time from the tensors of a file alone."""

import pytest
import torch
from torch import nn

from sdtune.api import merge_adapters
from sdtune_lycoris.algorithms import Settings
from sdtune_lycoris.layers import LycorisLayer, NormLayer

BASES = {
    "linear": lambda: nn.Linear(24, 32),
    "conv 1x1": lambda: nn.Conv2d(24, 32, 1),
    "conv 3x3": lambda: nn.Conv2d(24, 32, 3, padding=1),
}
ALGOS = {
    "locon": [{}, {"scalar": True}, {"rs_lora": True}, {"tucker": True}, {"weight_decompose": True}],
    "loha": [{}, {"scalar": True, "rs_lora": True}, {"tucker": True}, {"weight_decompose": True}],
    "lokr": [
        {},
        {"full_matrix": True},
        {"full_matrix": True, "scalar": True},
        {"rank": 1, "decompose_both": True, "rs_lora": True},
        {"rank": 1, "decompose_both": True, "scalar": True, "factor": 2},
        {"rank": 2, "tucker": True, "scalar": True},
        {"rank": 2, "weight_decompose": True},
    ],
    "ia3": [{}, {"on_input": True}],
    "full": [{"has_bias": True}],
    "glora": [{}, {"scalar": True, "rs_lora": True}],
    "diag-oft": [{}, {"constraint": 0.01}, {"rescaled": True}],
    "boft": [{}, {"constraint": 0.01}, {"rescaled": True}],
}
CASES = [
    (base, {"algo": algo, "rank": 4, "alpha": 2.0, **options})
    for algo, every in ALGOS.items()
    for options in every
    for base in BASES
    if (algo != "glora" or base == "linear") and (not options.get("tucker") or base == "conv 3x3")
]
every_case = pytest.mark.parametrize(("base", "options"), CASES)


def make(base, options):
    torch.manual_seed(0)
    layer = LycorisLayer(BASES[base](), Settings(**options), torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in layer.factors.values():
            parameter.add_(torch.randn(parameter.shape) * 0.3)
    return layer


def webui_delta(weight, tensors):
    """Give what A1111 adds to a weight and to its bias."""
    for name, rule in RULES.items():
        if name in tensors:
            delta, rank = rule(weight, tensors)
            break
    scale = tensors["alpha"].item() / rank if rank and "alpha" in tensors else 1.0
    delta = delta.reshape(weight.shape) * scale
    if "dora_scale" in tensors:
        merged = weight + delta
        norm = merged.transpose(0, 1).reshape(merged.shape[1], -1).norm(dim=1, keepdim=True)
        norm = norm.reshape(-1, *[1] * (weight.dim() - 1)).transpose(0, 1)
        delta = merged * (tensors["dora_scale"] / norm) - weight
    return delta, tensors.get("diff_b")


def core(t, wa, wb):
    return torch.einsum("ijkl,jr,ip->prkl", t, wb, wa)


def lora(weight, tensors):
    up, down = tensors["lora_up.weight"], tensors["lora_down.weight"]
    rank = len(down)
    up, flat = up.reshape(len(up), -1), down.reshape(rank, -1)
    if "lora_mid.weight" in tensors:
        return torch.einsum("nmkl,in,mj->ijkl", tensors["lora_mid.weight"], up, flat), rank
    return up @ flat, rank


def loha(weight, tensors):
    w1a, w1b, w2a, w2b = (tensors[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    if "hada_t1" in tensors:
        return core(tensors["hada_t1"], w1a, w1b) * core(tensors["hada_t2"], w2a, w2b), len(w1b)
    return (w1a @ w1b) * (w2a @ w2b), len(w1b)


def lokr(weight, tensors):
    rank = None
    w1, w2 = tensors.get("lokr_w1"), tensors.get("lokr_w2")
    assert "lokr_t2" not in tensors  # ComfyUI and Forge fail on it
    if w1 is None:
        w1, rank = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"], len(tensors["lokr_w1_b"])
    if w2 is None:
        w2, rank = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"], len(tensors["lokr_w2_b"])
    return torch.kron(w1[:, :, None, None] if w2.dim() == 4 else w1, w2), rank


def ia3(weight, tensors):
    gains = tensors["weight"]
    assert weight.dim() == 2 or tensors["on_input"].item() == 1  # the other fails
    return weight * (gains if tensors["on_input"].item() else gains.reshape(-1, 1)), None


def full(weight, tensors):
    assert tensors["diff"].shape == weight.shape  # ComfyUI and Forge skip another
    return tensors["diff"], None


def glora(weight, tensors):
    a1, a2, b1, b2 = (tensors[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    assert tensors["alpha"].item() == len(a1)  # ComfyUI scales by it, A1111 does not
    return b2 @ b1 + (weight @ a2) @ a1, None


def oft(weight, tensors):
    blocks = tensors["oft_blocks"]
    assert tensors["alpha"].item() == 0  # the programs disagree about any other
    skew = blocks - blocks.transpose(-1, -2)
    eye = torch.eye(blocks.shape[-1])
    turns = (eye + skew) @ (eye - skew).inverse()
    if blocks.dim() == 3:
        rows = weight.reshape(len(blocks), blocks.shape[1], *weight.shape[1:])
        turned = torch.einsum("knm,kn...->km...", turns, rows).reshape(weight.shape)
    else:
        turned = weight
        for stage, bi in enumerate(turns):
            distance, size = 2**stage * blocks.shape[-1] // 2, blocks.shape[-1]
            index = torch.arange(len(weight)).view(-1, 2, distance).transpose(1, 2).reshape(-1, size)
            new = torch.einsum("bij,bj...->bi...", bi, turned[index])
            turned = torch.empty_like(turned).index_copy(0, index.flatten(), new.flatten(0, 1))
    return tensors.get("rescale", 1.0) * turned - weight, None


RULES = {
    "lora_up.weight": lora,
    "hada_w1_a": loha,
    "weight": ia3,
    "lokr_w1": lokr,
    "lokr_w1_a": lokr,
    "diff": full,
    "a1.weight": glora,
    "oft_blocks": oft,
}


@every_case
@pytest.mark.parametrize("as_diff", [False, True])
def test_webui_adds_what_was_trained(base, options, as_diff):
    layer = make(base, options)
    weight, bias = webui_delta(layer.weight, layer.tensors(as_diff=as_diff))
    torch.testing.assert_close(weight, layer.delta_weight(), rtol=0, atol=1e-4)
    assert (bias is None) == (layer.delta_bias() is None)
    assert bias is None or torch.equal(bias, layer.delta_bias())


@pytest.mark.parametrize(("base", "shape"), [("linear", (1, 24)), ("conv 3x3", (1, 24, 1, 1))])
def test_magnitudes_are_those_of_input_columns(base, shape):
    layer = make(base, {"algo": "locon", "weight_decompose": True})
    assert layer.tensors()["dora_scale"].shape == shape


def test_alpha_tells_the_scale_of_rs_lora():
    layer = make("linear", {"algo": "locon", "rank": 4, "alpha": 2.0, "rs_lora": True})
    assert layer.tensors()["alpha"].item() == 4.0


def test_conv_up_is_four_dimensional():
    assert make("conv 3x3", {"algo": "locon", "rank": 4}).tensors()["lora_up.weight"].shape == (32, 4, 1, 1)


@pytest.mark.parametrize("norm", [nn.GroupNorm(4, 16), nn.LayerNorm(16)], ids=["group", "layer"])
def test_norms_are_differences(norm):
    torch.manual_seed(0)
    nn.init.normal_(norm.weight)
    layer, x = NormLayer(norm), torch.randn(3, 16)
    assert torch.equal(layer(x), norm(x))
    for parameter in layer.factors.values():
        nn.init.normal_(parameter)
    expected = layer(x)
    tensors = layer.tensors()
    with torch.no_grad():
        norm.weight += tensors["w_norm"]
        norm.bias += tensors["b_norm"]
    torch.testing.assert_close(norm(x), expected)


def test_merging_adds_weight_and_bias(model):
    torch.manual_seed(0)
    layer = make("linear", {"algo": "full", "has_bias": True})
    x = torch.randn(3, 24)
    expected, base = layer(x), layer.base
    path = next(target.path for target in model.targets(("unet",)))
    model.replace(path, layer)
    merge_adapters(model, {path: layer})
    torch.testing.assert_close(base(x), expected)
