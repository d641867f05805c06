"""Forge's own rules, told by hand: names, the limit of unknown keys, and what it computes otherwise."""

import re

import pytest
import torch

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
INSIDE = "transformer_blocks_0_attn1_to_out_0"
DOTTED = "transformer_blocks.0.attn1"
WIDTH = 64


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.3


UP, DOWN = draw(WIDTH, 2), draw(2, WIDTH)


def lora(name, up=".lora_up.weight", down=".lora_down.weight"):
    return {f"{name}{up}": UP, f"{name}{down}": DOWN}


NAMES = {
    f"lora_unet_mid_block_attentions_0_{INSIDE}": "both",
    f"lora_unet_middle_block_1_{INSIDE}": "both",
    f"lycoris_mid_block_attentions_0_{INSIDE}": "both",
    f"diffusion_model.middle_block.1.{DOTTED}.to_out.0": "both",
    f"mid_block.attentions.0.{DOTTED}.processor.to_out": "both",
    f"unet.mid_block.attentions.0.{DOTTED}.processor.to_out": "both",
    f"unet.mid_block.attentions.0.{DOTTED}.to_out.0": "none",
    f"mid_block.attentions.0.{DOTTED}.to_out.0": "none",
    f"lora_unet_mid_block_attentions_0_{INSIDE.removesuffix('_0')}": "none",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("consumer", ["forge", "comfyui"])
def test_a_layer_of_the_unet_has_these_names_and_no_others(name, consumer, open_base, read):
    reading = read(consumer, lora(name), open_base("sd1"))
    assert [use.target for use in reading.uses] == ([f"{LAYER}.weight"] if NAMES[name] == "both" else [])
    assert reading.used_keys() == (lora(name).keys() if NAMES[name] == "both" else set())


ENDS = {
    (".lora_up.weight", ".lora_down.weight"): "both",
    (".lora_B.weight", ".lora_A.weight"): "both",
    ("_lora.up.weight", "_lora.down.weight"): "both",
    (".lora.up.weight", ".lora.down.weight"): "both",
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight"): "both",
    (".lora_B", ".lora_A"): "comfyui",
    (".lora_B.default.weight", ".lora_A.default.weight"): "comfyui",
    (".up", ".down"): "none",
}


@pytest.mark.slow
@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("consumer", ["forge", "comfyui"])
def test_a_factor_has_these_ends_and_no_others(ends, consumer, open_base, read):
    tensors = lora(f"unet.mid_block.attentions.0.{DOTTED}.processor.to_out", *ends)
    is_known = ENDS[ends] in ("both", consumer)
    reading = read(consumer, tensors, open_base("sd1"))
    assert reading.used_keys() == (tensors.keys() if is_known else set())
    for use in reading.uses:
        torch.testing.assert_close(use.change(torch.zeros(WIDTH, WIDTH)), UP @ DOWN)


QUERY = "text_model.encoder.layers.0.self_attn.q_proj"
TEXT_NAMES = [
    ("sd1", f"lora_te_{QUERY.replace('.', '_')}", "text_encoder", "both"),
    ("sd1", f"lora_te1_{QUERY.replace('.', '_')}", "text_encoder", "both"),
    ("sd1", f"text_encoder.{QUERY}", "text_encoder", "both"),
    ("sd1", f"text_encoders.clip_l.transformer.{QUERY}", "text_encoder", "comfyui"),
    ("sd2", f"text_encoders.clip_h.transformer.{QUERY}", "text_encoder", "comfyui"),
    ("sd2", f"lora_te1_{QUERY.replace('.', '_')}", "text_encoder", "both"),
    ("sdxl", f"lora_te_{QUERY.replace('.', '_')}", "text_encoder", "both"),
    ("sdxl", f"lora_te2_{QUERY.replace('.', '_')}", "text_encoder_2", "both"),
    ("sdxl", f"text_encoder_2.{QUERY}", "text_encoder_2", "both"),
    ("sdxl", "lora_te2_text_projection", "text_encoder_2", "both"),
    ("sdxl", "text_encoder.text_projection", "text_encoder_2", "forge"),
    ("sd1", "lora_te_text_model_encoder_layers_0_layer_norm1", "text_encoder", "none"),
    ("sd1", "lora_te_text_model_final_layer_norm", "text_encoder", "none"),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", TEXT_NAMES, ids=lambda case: f"{case[0]} {case[1]}")
@pytest.mark.parametrize("consumer", ["forge", "comfyui"])
def test_a_layer_of_a_text_encoder_has_these_names_and_no_others(case, consumer, open_base, read):
    family, name, part, known = case
    reading = read(consumer, lora(name), open_base(family))
    assert [use.target.partition(".")[0] for use in reading.uses] == ([part] if known in ("both", consumer) else [])


def strays(count):
    return {f"optimizer.state.{number}": torch.zeros(1) for number in range(count)}


@pytest.mark.parametrize("count", [12, 13])
def test_thirteen_unknown_keys_are_too_many(count, open_base, adapter, read):
    base = open_base("sd1")
    tensors = adapter(base)
    reading = read("forge", tensors | strays(count), base)
    assert len(reading.skipped) == count
    if count == 12:
        assert reading.refused == ""
        assert reading.used_keys() == tensors.keys()
    else:
        assert re.match("it drops files with more than 12 unknown keys, here 13: optimizer.state.0", reading.refused)
        assert reading.used_keys() == set()


def attention_layers(base, count):
    paths = [target.path for target in base.targets(("unet",)) if target.kind == "attention"]
    return [base.webui_key(path) for path in paths[:count]]


@pytest.mark.parametrize("count", [12, 13])
def test_alpha_is_never_unknown(count, open_base, read):
    """Of a rotation the blocks alone count, and the thirteenth ends it by the program's nature: it has none."""
    base = open_base("sd1")
    rotation = {"oft_blocks": draw(8, 8, 8), "alpha": torch.tensor(0.0)}
    layers = attention_layers(base, count)
    reading = read("forge", {f"{layer}.{name}": rotation[name] for layer in layers for name in rotation}, base)
    assert len(reading.unknown) == 2 * count
    assert reading.refused == ""
    assert ("here 13" in reading.unsupported) == (count == 13)


@pytest.mark.parametrize(("count", "is_dropped"), [(6, False), (7, True)])
def test_norms_of_text_encoders_have_no_name(count, is_dropped, open_base, adapter, read):
    base = open_base("sd1")
    places = [f"encoder_layers_{number}_layer_norm{which}" for number in range(4) for which in (1, 2)][:count]
    norms = {f"lora_te_text_model_{place}.{side}_norm": draw(WIDTH) for place in places for side in "wb"}
    reading = read("forge", adapter(base) | norms, base)
    assert reading.unknown.keys() >= (norms.keys() if count < 5 else set())
    assert (reading.refused + reading.unsupported != "") == is_dropped


def test_a_bundled_embedding_is_unknown_to_it(open_base, adapter, read):
    base = open_base("sd1")
    tensors = adapter(base) | {"bundle_emb.zwx.string_to_param.*": torch.zeros(2, WIDTH)}
    assert list(read("forge", tensors, base).skipped) == ["bundle_emb.zwx.string_to_param.*"]
    assert read("comfyui", tensors, base).skipped == {}


@pytest.mark.parametrize("consumer", ["forge", "comfyui"])
@pytest.mark.parametrize("side", ["up", "down"])
def test_a_factor_without_the_other(consumer, side, open_base, adapter, read):
    """It is `up` that is looked for: without `down` the loading fails; `down` alone is never asked for."""
    base = open_base("sd1")
    tensors = adapter(base)
    other = {"up": "down", "down": "up"}[side]
    lacking = next(key for key in tensors if f"lora_{other}" in key)
    reading = read(consumer, {key: tensor for key, tensor in tensors.items() if key != lacking}, base)
    assert bool(reading.refused) == (side == "up")


def test_a_tucker_factor_of_a_kronecker_product_ends_the_loading(open_base, adapter, read):
    base = open_base("sd1")
    factors = {"lokr_w1": draw(8, 8), "lokr_t2": draw(4, 4, 3, 3), "lokr_w2_a": draw(4, 8), "lokr_w2_b": draw(4, 8)}
    product = {f"lora_unet_mid_block_resnets_0_conv1.{name}": tensor for name, tensor in factors.items()}
    assert "and with it the file" in read("forge", adapter(base) | product, base).unsupported
    assert read("comfyui", adapter(base) | product, base).unsupported == ""


@pytest.mark.parametrize("consumer", ["forge", "comfyui"])
@pytest.mark.parametrize("axis", [0, 1])
def test_magnitudes_of_rows_are_divided_by_lengths_of_the_base_models_rows(axis, consumer, open_base, read):
    base = open_base("sd1")
    weight = base.part("unet").get_submodule(LAYER.removeprefix("unet.")).weight.detach()
    magnitudes = draw(WIDTH).abs() + 1
    key = f"lora_unet_mid_block_attentions_0_{INSIDE}"
    shape = (-1, 1) if axis == 0 else (1, -1)
    (use,) = read(consumer, lora(key) | {f"{key}.dora_scale": magnitudes.reshape(shape)}, base).uses
    merged = weight + UP @ DOWN
    lengths = (weight if axis == 0 else merged).square().sum(1 - axis, keepdim=True).sqrt()
    torch.testing.assert_close(use.change(weight), merged * magnitudes.reshape(shape) / lengths)


def test_its_list_hides_no_file(open_base, adapter):
    from pathlib import Path

    from sdtune.formats.consumers.applying import view_of
    from sdtune.formats.consumers.forge import read_adapters
    from sdtune.formats.consumers.reading import File

    base = open_base("sdxl")
    file = File(path=Path("a.safetensors"), kind="lora", tensors=adapter(base), metadata={"sshs_model_hash": "0"})
    assert read_adapters(file, view_of(base)).mistake == ""
