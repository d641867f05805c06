"""Each algorithm in each program: where one computes something else than was trained, it is found."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from sdtune.formats.describe.readers import describe_readers
from sdtune.formats.recognize import recognize

ATTENTION = "lora_unet_mid_block_attentions_0_proj_in"  # a 1x1 convolution in SD1
LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_mid_block_resnets_0_conv1"
WIDTH = 64
R = 4


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.3


ALPHA = {"alpha": torch.tensor(2.0)}
LOW_RANK = {"lora_up.weight": draw(WIDTH, R), "lora_down.weight": draw(R, WIDTH), **ALPHA}
HADAMARD = {f"hada_w{n}_{side}": draw(*(WIDTH, R) if side == "a" else (R, WIDTH)) for n in (1, 2) for side in "ab"}
TUCKER = {"hada_t1": draw(R, R, 3, 3), "hada_t2": draw(R, R, 3, 3)}
KRONECKER = {"lokr_w1": draw(8, 8), "lokr_w2_a": draw(8, R), "lokr_w2_b": draw(R, 8), **ALPHA}
OLD = {
    "a2.weight": draw(WIDTH, R),
    "a1.weight": draw(R, WIDTH),
    "b2.weight": draw(WIDTH, R),
    "b1.weight": draw(R, WIDTH),
}
NEW = {
    "a1.weight": draw(WIDTH, R),
    "a2.weight": draw(R, WIDTH),
    "b1.weight": draw(WIDTH, R),
    "b2.weight": draw(R, WIDTH),
}
BLOCKS = {"oft_blocks": draw(8, 8, 8)}
BUTTERFLY = {"oft_blocks": draw(4, 8, 8, 8)}
GAINS = {"weight": draw(WIDTH), "on_input": torch.tensor(1)}
# name: layer, tensors, programs that go wrong though they have LyCORIS algorithms
CASES = {
    "lora": (LINEAR, LOW_RANK, ()),
    "lora tucker": (
        CONV,
        {"lora_up.weight": draw(WIDTH, R, 1, 1), "lora_down.weight": draw(R, WIDTH, 1, 1)}
        | {"lora_mid.weight": draw(R, R, 3, 3)},
        (),
    ),
    "loha": (LINEAR, HADAMARD | ALPHA, ()),
    "loha tucker": (
        CONV,
        {f"hada_w{n}_{side}": draw(R, WIDTH) for n in (1, 2) for side in "ab"} | TUCKER | ALPHA,
        (),
    ),
    "lokr": (LINEAR, KRONECKER, ()),
    "lokr full": (LINEAR, {"lokr_w1": draw(8, 8), "lokr_w2": draw(8, 8), **ALPHA}, ()),
    "lokr tucker": (
        CONV,
        {"lokr_w1": draw(8, 8), "lokr_t2": draw(R, R, 3, 3), "lokr_w2_a": draw(R, 8), "lokr_w2_b": draw(R, 8), **ALPHA},
        ("comfyui", "forge"),
    ),
    "dora, input": (LINEAR, LOW_RANK | {"dora_scale": draw(1, WIDTH).abs() + 1}, ()),
    "dora, output": (LINEAR, LOW_RANK | {"dora_scale": draw(WIDTH, 1).abs() + 1}, ("a1111", "comfyui", "forge")),
    "gains": (LINEAR, GAINS, ("comfyui", "forge")),
    "gains of outputs of a convolution": (
        CONV,
        {"weight": draw(WIDTH, 1, 1, 1), "on_input": torch.tensor(0)},
        ("a1111", "comfyui", "forge"),
    ),
    "full": (ATTENTION, {"diff": draw(WIDTH, WIDTH, 1, 1), "diff_b": draw(WIDTH)}, ()),
    "bias alone": (ATTENTION, {"diff_b": draw(WIDTH)}, ("a1111",)),
    "full, flat": (ATTENTION, {"diff": draw(WIDTH, WIDTH)}, ("comfyui", "forge")),
    "norm": ("lora_unet_mid_block_resnets_0_norm1", {"w_norm": draw(WIDTH), "b_norm": draw(WIDTH)}, ()),
    "glora, old": (LINEAR, OLD | {"alpha": torch.tensor(4.0)}, ()),
    "glora, old, scaled": (LINEAR, OLD | ALPHA, ("a1111",)),
    "glora, new": (LINEAR, NEW | ALPHA, ("a1111",)),
    "oft": (LINEAR, BLOCKS | {"alpha": torch.tensor(0.0)}, ("forge",)),
    "oft, constrained": (LINEAR, BLOCKS | {"alpha": torch.tensor(0.01)}, ("comfyui", "forge")),
    "oft, rescaled": (
        LINEAR,
        BLOCKS | {"alpha": torch.tensor(0.0), "rescale": draw(WIDTH, 1) + 1},
        ("comfyui", "forge"),
    ),
    "boft": (LINEAR, BUTTERFLY | {"alpha": torch.tensor(0.0), "rescale": draw(WIDTH, 1) + 1}, ("forge",)),
    "boft without alpha": (LINEAR, BUTTERFLY, ("comfyui", "forge")),
}


@pytest.mark.parametrize("case", CASES)
def test_programs_go_wrong_where_they_do(case, open_base, certificate):
    layer, tensors, wrong = CASES[case]
    tensors = {f"{layer}.{name}": tensor for name, tensor in tensors.items()}
    made = certificate(tensors, open_base("sd1"), asked=("a1111", "forge", "comfyui"))
    assert made.effect is not None
    assert {row.consumer for row in made.rows if row.fault(is_chosen=True)} == set(wrong)
    is_badly_made = case == "full, flat"
    assert {row.consumer for row, _ in made.faults()} == (set(wrong) if is_badly_made else set())


@pytest.mark.parametrize(
    "case", ["loha", "lokr", "gains", "full", "bias alone", "norm", "glora, old", "oft", "boft", "lora tucker"]
)
def test_kohya_and_diffusers_know_none_of_these(case, open_base, certificate):
    layer, tensors, _ = CASES[case]
    tensors = {f"{layer}.{name}": tensor for name, tensor in tensors.items()}
    rows = certificate(tensors, open_base("sd1"), "kohya", "diffusers").rows
    assert [bool(row.unsupported) for row in rows] == [True, True]


def test_magnitudes_are_lost_on_kohya_and_diffusers(open_base, certificate):
    layer, tensors, _ = CASES["dora, input"]
    tensors = {f"{layer}.{name}": tensor for name, tensor in tensors.items()}
    made = certificate(tensors, open_base("sd1"), "kohya", "diffusers")
    assert [list(row.unknown) for row in made.rows] == [[f"{layer}.dora_scale"]] * 2
    assert len(made.faults()) == 2


def test_layers_kohya_does_not_train_are_unknown_to_it(open_base, read):
    tensors = {
        "lora_unet_conv_in.lora_down.weight": draw(2, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": draw(32, 2, 1, 1),
    }
    base = open_base("sd1")
    assert read("kohya", tensors, base).unknown.keys() == tensors.keys()
    assert read("a1111", tensors, base).used_keys() == tensors.keys()


PROGRAMS = {"A1111": "a1111", "Forge": "forge", "ComfyUI": "comfyui", "sd-scripts": "kohya", "diffusers": "diffusers"}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_inspect_names_the_same_programs(case, open_base, certificate, tmp_path):
    """What it tells at a glance, from names and shapes alone, is what reading and computing finds."""
    layer, tensors, _ = CASES[case]
    tensors = {f"{layer}.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "zwx.safetensors")
    facts = replace(recognize(tmp_path / "zwx.safetensors"), family="sd1")  # a layer alone does not tell it
    told = {row["program"]: row["answer"] for row in describe_readers(facts)}
    rows = certificate(tensors, open_base("sd1"), asked=tuple(PROGRAMS.values())).rows
    good = {row.consumer for row in rows if not row.fault(is_chosen=True)}
    assert {PROGRAMS[name] for name, answer in told.items() if answer == "yes"} == good
