"""Good files are read whole by every program that knows them; seeded faults are found by the program that suffers."""

import re
from pathlib import Path

import pytest
import torch

from sdtune.formats.consumers import a1111
from sdtune.formats.consumers.applying import applied, named_layers, view_of
from sdtune.formats.consumers.definition import read_adapters
from sdtune.formats.consumers.ldm import unet_layers
from sdtune.formats.consumers.reading import File

FAMILIES = ("sd1", "sd2", "sdxl")
CONSUMERS = ("a1111", "forge", "comfyui", "kohya", "diffusers")
every_family = pytest.mark.parametrize("family", FAMILIES)
SD1 = "lora_unet_down_blocks_0_attentions_0_"


def renamed(tensors, old, new):
    return {key.replace(old, new): tensor for key, tensor in tensors.items()}


@pytest.mark.slow
@every_family
def test_every_program_reads_a_good_file_whole(family, open_base, adapter, certificate):
    base = open_base(family)
    tensors = adapter(base)
    made = certificate(tensors, base)
    assert made.faults() == []
    assert {row.consumer: (row.used, row.total) for row in made.rows} == dict.fromkeys(CONSUMERS, (len(tensors),) * 2)
    assert max(row.error for row in made.rows) < 1e-5
    assert made.effect > 0.01


@every_family
def test_the_weights_are_those_of_the_formula(family, open_base, adapter, read):
    base = open_base(family)
    tensors = adapter(base, rank=2, alpha=3.0)
    weights = {f"{path}.weight": module.weight for path, module in named_layers(base) if hasattr(module, "weight")}
    keys = {f"{target.path}.weight": base.webui_key(target.path) for target in base.targets(("unet", "text_encoder"))}
    for consumer in ("a1111", "forge", "comfyui", "kohya"):
        uses = read(consumer, tensors, base).uses
        for use in uses:
            up, down = (tensors[f"{keys[use.target]}.lora_{side}.weight"] for side in ("up", "down"))
            weight = weights[use.target]
            expected = weight + 1.5 * torch.einsum("or,ri->oi", up.flatten(1), down.flatten(1)).reshape(weight.shape)
            torch.testing.assert_close(use.change(weight), expected)
        assert len(uses) == len(tensors) / 3


@pytest.mark.slow
@every_family
def test_nothing_of_the_model_is_changed_for_good(family, open_base, adapter, certificate):
    base = open_base(family)
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    certificate(adapter(base), base)
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_weights_are_put_back_where_a_layer_fails(open_base, adapter, file):
    base = open_base("sd1")
    reading = read_adapters(file(adapter(base)), view_of(base))
    layers = dict(named_layers(base))
    layer = layers["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"]
    weight = layer.weight
    with applied(base, [reading]), pytest.raises(RuntimeError):
        layer(torch.zeros(1, 3))
    assert layer.weight is weight


FAULTS = {
    "wrong prefix": ("sd1", "lora_unet", "lora_model", "a1111", "792 skipped|skipped.*no layer has this name"),
    "wrong prefix, Comfy": ("sd1", "lora_unet", "lora_model", "comfyui", "skipped.*no layer has this name"),
    "wrong prefix, diffusers": ("sd1", "lora_unet", "unet", "diffusers", "refused"),
    "te without text_model_": ("sd1", "lora_te_text_model_", "lora_te_", "a1111", "skipped: lora_te_encoder"),
    "te without text_model_, Comfy": ("sd1", "lora_te_text_model_", "lora_te_", "comfyui", "skipped: lora_te_encoder"),
    "te without text_model_, Forge": (
        "sd1",
        "lora_te_text_model_",
        "lora_te_",
        "forge",
        "refused.*unknown keys, here 36: lora_te_enc",
    ),
    "wrong prefix, Forge": ("sd1", "lora_unet", "lora_model", "forge", "refused.*no layer has this name"),
    "te without text_model_, kohya": ("sd1", "lora_te_text_model_", "lora_te_", "kohya", "skipped: lora_te_encoder"),
    "te1 for two encoders' first": ("sdxl", "lora_te1_", "lora_te_", "kohya", "skipped: lora_te_text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_name_is_found(fault, open_base, adapter, certificate):
    family, old, new, consumer, message = FAULTS[fault]
    base = open_base(family)
    made = certificate(renamed(adapter(base), old, new), base, consumer)
    (fault,) = [text for _, text in made.faults()]
    assert re.search(message, fault)


@pytest.mark.parametrize("consumer", ["a1111", "forge", "comfyui"])
def test_two_dimensions_for_a_convolution_are_forgiven_by_webuis(consumer, open_base, adapter, certificate):
    base = open_base("sd1")
    tensors = {key: t.flatten(1) if "proj_in.lora" in key else t for key, t in adapter(base).items()}
    assert certificate(tensors, base, consumer).faults() == []


@pytest.mark.parametrize("consumer", ["kohya", "diffusers"])
def test_two_dimensions_for_a_convolution_are_refused_by_strict_programs(consumer, open_base, adapter, certificate):
    base = open_base("sd1")
    tensors = {key: t.flatten(1) if "proj_in.lora" in key else t for key, t in adapter(base).items()}
    ((_, fault),) = certificate(tensors, base, consumer).faults()
    assert fault.startswith("refused")


def test_a_missing_alpha_is_one_everywhere(open_base, adapter, read):
    base = open_base("sd1")
    key = base.webui_key("unet.mid_block.attentions.0.proj_in")
    tensors = {f"{key}.lora_{side}.weight": adapter(base)[f"{key}.lora_{side}.weight"] for side in ("up", "down")}
    weight = torch.zeros(base.part("unet").get_submodule("mid_block.attentions.0.proj_in").weight.shape)
    changes = [
        {use.target: use for use in read(name, tensors, base).uses}["unet.mid_block.attentions.0.proj_in.weight"]
        for name in CONSUMERS
    ]
    up, down = tensors[f"{key}.lora_up.weight"], tensors[f"{key}.lora_down.weight"]
    for use in changes:
        torch.testing.assert_close(use.change(weight), (up.flatten(1) @ down.flatten(1)).reshape(weight.shape))


def test_an_alpha_of_zero_is_none_for_kohya_and_nothing_for_webuis(open_base, adapter, certificate):
    base = open_base("sd1")
    made = certificate(adapter(base, alpha=0.0), base, asked=("a1111", "forge", "comfyui", "kohya"))
    assert [row.consumer for row, _ in made.faults()] == ["kohya"]


@pytest.mark.parametrize("extra", ["bundle_emb.zwx.string_to_param.*", "optimizer.state"])
def test_extra_keys_break_diffusers(extra, open_base, adapter, certificate):
    base = open_base("sd1")
    made = certificate(adapter(base) | {extra: torch.zeros(2, 64)}, base, "diffusers")
    ((_, fault),) = made.faults()
    assert fault.startswith("refused")


def test_what_no_algorithm_accepts_is_refused_by_a1111(open_base, adapter, certificate):
    base = open_base("sd1")
    tensors = {key: tensor for key, tensor in adapter(base).items() if key != f"{SD1}proj_in.lora_down.weight"}
    ((_, fault),) = certificate(tensors, base, "a1111").faults()
    assert "no algorithm accepts" in fault


def ldm_to_diffusers(tensors, base):
    """Rename an SDXL file's UNet layers to diffusers' names."""
    names = {
        f"lora_unet_{ldm.replace('.', '_')}": f"lora_unet_{name.replace('.', '_')}"
        for name, ldm in unet_layers(view_of(base).of("unet")).items()
    }
    parts = {key: key.partition(".") for key in tensors}
    return {f"{names.get(head, head)}.{tail}": tensors[key] for key, (head, _, tail) in parts.items()}


def test_an_upsampler_by_diffusers_name_is_lost_in_a1111(open_base, read):
    base = open_base("sdxl")
    key, shape = (
        "lora_unet_up_blocks_0_upsamplers_0_conv",
        base.part("unet").up_blocks[0].upsamplers[0].conv.weight.shape,
    )
    tensors = {
        f"{key}.lora_down.weight": torch.ones(2, *shape[1:]),
        f"{key}.lora_up.weight": torch.ones(shape[0], 2, 1, 1),
    }
    assert read("a1111", tensors, base).skipped.keys() == tensors.keys()
    assert read("comfyui", tensors, base).used_keys() == tensors.keys() == read("forge", tensors, base).used_keys()


def test_names_of_both_kinds_lose_half_in_diffusers(open_base, adapter, certificate):
    base = open_base("sdxl")
    tensors = adapter(base)
    mixed = {
        key: tensor
        for pair in zip(tensors.items(), ldm_to_diffusers(tensors, base).items(), strict=True)
        for key, tensor in [pair["output_blocks" in pair[0][0]]]
    }
    assert mixed.keys() != tensors.keys()
    assert certificate(mixed, base, "diffusers").faults() != []
    assert certificate(mixed, base, "a1111", "forge", "comfyui").faults() == []


@pytest.mark.parametrize(("family", "prefix"), [("sd2", "lora_te"), ("sdxl", "lora_te2")])
def test_a1111_needs_all_four_of_a_fused_attention(family, prefix, open_base, adapter, certificate):
    base = open_base(family)
    layer = f"{prefix}_text_model_encoder_layers_0_self_attn_"
    tensors = {key: tensor for key, tensor in adapter(base).items() if not key.startswith(f"{layer}q_proj")}
    ((row, fault),) = certificate(tensors, base, "a1111").faults()
    assert set(row.unknown) == {key for key in tensors if key.startswith(layer)}
    assert "not there: q" in fault
    assert certificate(tensors, base, "comfyui").faults() == []


def test_a_program_that_does_not_know_an_algorithm_is_no_fault_unless_chosen(open_base, certificate):
    base = open_base("sd1")
    weight = base.part("unet").down_blocks[0].attentions[0].proj_in.weight
    tensors = {f"{SD1}proj_in.diff": torch.ones(weight.shape) * 0.1}
    assert certificate(tensors, base).faults() == []
    assert [row.consumer for row, _ in certificate(tensors, base, "kohya", "diffusers").faults()] == [
        "kohya",
        "diffusers",
    ]


HIDDEN = {
    "no metadata": ("sdxl", {}, False),
    "some": ("sdxl", {"sshs_model_hash": "0"}, True),
    "some, SD1": ("sd1", {"sshs_model_hash": "0"}, False),
    "SDXL": ("sdxl", {"ss_base_model_version": "sdxl_base_v1-0"}, False),
    "SD2": ("sd2", {"ss_v2": "True"}, False),
    "SD2 as text": ("sd2", {"ss_v2": "true"}, True),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a1111_hides_what_its_metadata_make_a_file_for_another_family(case, open_base, adapter):
    family, metadata, is_hidden = HIDDEN[case]
    base = open_base(family)
    file = File(path=Path("zwx.safetensors"), kind="lora", tensors=adapter(base), metadata=metadata)
    assert ("its list hides it" in a1111.read_adapters(file, view_of(base)).mistake) == is_hidden
