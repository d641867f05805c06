"""One LoRA in every dialect: the change of each weight, computed from each file by its own rule, is the same."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sdtune.errors import ConfigError, ModelError
from sdtune.export.writer import write_tensors
from sdtune.formats.convert import convert
from sdtune.formats.hcp import whole_alpha
from sdtune.formats.layer_names import kohya_key
from sdtune.formats.outputs import Request
from sdtune.formats.recognize import recognize
from sdtune.testing.models import open_tiny
from sdtune.testing.tiny import tiny_model

FAMILIES = ("sd1", "sd2", "sdxl")
RANK, ALPHA = 3, 2.0


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {family: open_tiny(tiny_model(folder / family, family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def sources(models, tmp_path_factory):
    """kohya's file of each family: every layer of the UNet and the text encoders, convolutions too."""
    folder = tmp_path_factory.mktemp("sources")
    return {family: write_lora(folder / f"{family}.safetensors", model) for family, model in models.items()}


def write_lora(path, model, rank=RANK, alpha=ALPHA):
    draws = torch.Generator().manual_seed(1)
    tensors = {}
    for target in model.targets(["unet", "text_encoder"]):
        out, inner, *kernel = target.module.weight.shape
        key, ones = model.webui_key(target.path), [1] * len(kernel)
        tensors[f"{key}.lora_down.weight"] = torch.randn(rank, inner, *kernel, generator=draws) / 20
        tensors[f"{key}.lora_up.weight"] = torch.randn(out, rank, *ones, generator=draws) / 20
        tensors[f"{key}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path, metadata={"ss_output_name": "dog", "ss_network_dim": str(rank)})
    return path


def run(source, target, **options):
    conversion = convert(Request(source=recognize(source), target=target, **options))
    for output in conversion.outputs:
        write_tensors(output.path, output.tensors, output.metadata, overwrite=False)
    return conversion


def product(up, down):
    return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


def changes_of_kohya(path, model):
    """Layer to the change of its weight, as webui computes it."""
    tensors = load_file(path)
    names = {model.webui_key(target.path): target.path for target in model.targets(["unet", "text_encoder"])}
    ups = {name.removesuffix(".lora_up.weight"): t for name, t in tensors.items() if name.endswith("lora_up.weight")}
    downs = {key: tensors[f"{key}.lora_down.weight"] for key in ups}
    scales = {key: float(tensors[f"{key}.alpha"]) / len(downs[key]) for key in ups}
    return {names[key]: scales[key] * product(up, downs[key]) for key, up in ups.items()}


def changes_of_diffusers(path):
    """The same, as PEFT computes it where no alpha is told."""
    tensors = load_file(path)
    paths = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
    return {path: product(tensors[f"{path}.lora_B.weight"], tensors[f"{path}.lora_A.weight"]) for path in paths}


def changes_of_hcp(path, prefixes):
    """The same, as HCP-Diffusion computes it: alpha times W_up @ W_down, a file for each part."""
    tensors = load_file(path)
    names = [name.removesuffix(".layer.W_up") for name in tensors if name.endswith(".layer.W_up")]
    products = {n: product(tensors[f"{n}.layer.W_up"], tensors[f"{n}.layer.W_down"]) for n in names}
    scaled = {n.removesuffix(".___"): float(tensors[f"{n}.alpha"]) * p for n, p in products.items()}
    return {replace_start(name.removeprefix("lora:"), prefixes): change for name, change in scaled.items()}


def replace_start(name, prefixes):
    old = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[old] + name.removeprefix(old)


def assert_same_changes(found, expected):
    assert found.keys() == expected.keys()
    differences = [(found[path] - change).norm() / change.norm() for path, change in expected.items()]
    assert max(differences) < 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_file_changes_every_weight_as_kohyas(tmp_path, models, sources, family):
    run(sources[family], tmp_path / "d.safetensors", to="diffusers")
    expected = changes_of_kohya(sources[family], models[family])
    assert_same_changes(changes_of_diffusers(tmp_path / "d.safetensors"), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_hcps_files_change_every_weight_as_kohyas(tmp_path, models, sources, family):
    run(sources[family], tmp_path / "hcp", to="hcp")
    encoders = {"clip_L.": "text_encoder.", "clip_bigG.": "text_encoder_2.", "": "text_encoder."}
    found = changes_of_hcp(tmp_path / "hcp" / f"unet-{family}.safetensors", {"": "unet."})
    found |= changes_of_hcp(tmp_path / "hcp" / f"text_encoder-{family}.safetensors", encoders)
    assert_same_changes(found, changes_of_kohya(sources[family], models[family]))


def assert_same_file(found, expected):
    found, expected = load_file(found), load_file(expected)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_to_hcp_and_back_keeps_every_bit(tmp_path, sources, family):
    run(sources[family], tmp_path / "hcp", to="hcp")
    unet, text = (tmp_path / "hcp" / f"{part}-{family}.safetensors" for part in ("unet", "text_encoder"))
    run(unet, tmp_path / "back.safetensors", second=recognize(text), family=family)
    assert_same_file(tmp_path / "back.safetensors", sources[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_way_to_diffusers_and_back_keeps_every_bit_where_alpha_is_in_the_metadata(tmp_path, sources, family):
    run(sources[family], tmp_path / "d.safetensors", to="diffusers", keeps_alpha=True)
    run(tmp_path / "d.safetensors", tmp_path / "back.safetensors", family=family)
    assert_same_file(tmp_path / "back.safetensors", sources[family])


def test_the_way_to_diffusers_and_back_keeps_every_bit_where_alpha_is_the_rank(tmp_path, models):
    source = write_lora(tmp_path / "k.safetensors", models["sd1"], rank=4, alpha=4.0)
    run(source, tmp_path / "d.safetensors", to="diffusers")
    run(tmp_path / "d.safetensors", tmp_path / "back.safetensors", family="sd1")
    assert_same_file(tmp_path / "back.safetensors", source)


def test_t18_hcps_alpha_is_multiplied_by_the_rank(tmp_path):
    """S003-43: HCP stores alpha / rank, so a plain rename would be rank times too weak."""
    name = "lora:mid_block.attentions.0.transformer_blocks.0.attn2.to_k.___"
    up, down = torch.randn(8, 16), torch.randn(16, 4)
    source = {f"{name}.layer.W_up": up, f"{name}.layer.W_down": down, f"{name}.alpha": torch.tensor(2 / 16)}
    save_file(source, tmp_path / "unet-1000.safetensors")
    run(tmp_path / "unet-1000.safetensors", tmp_path / "k.safetensors", family="sd1")
    found = load_file(tmp_path / "k.safetensors")
    key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    assert float(found[f"{key}.alpha"]) == 2
    effect = found[f"{key}.alpha"] / 16 * (found[f"{key}.lora_up.weight"] @ found[f"{key}.lora_down.weight"])
    torch.testing.assert_close(effect, 2 / 16 * (up @ down))


@pytest.mark.parametrize("rank", [1, 3, 7, 16, 48, 49, 96, 100, 127])
def test_every_whole_alpha_comes_back_from_hcps_quotient(rank):
    quotients = [float(torch.tensor(alpha / rank, dtype=torch.float32)) for alpha in range(1, 130)]
    assert [whole_alpha(quotient, rank) for quotient in quotients] == list(range(1, 130))


@pytest.mark.parametrize("form", ["___.layer.lora_{}.weight", "___.layer.W_{}"])
def test_hcps_older_names_are_read_too(tmp_path, form):
    module = "lora:down_blocks.0.resnets.0.conv1."
    tensors = {
        module + form.format("down"): torch.randn(2, 4, 3, 3),
        module + form.format("up"): torch.randn(8, 2, 1, 1),
    }
    save_file(tensors | {f"{module}___.alpha": torch.tensor(0.5)}, tmp_path / "unet.safetensors")
    run(tmp_path / "unet.safetensors", tmp_path / "d.safetensors", to="diffusers")
    assert load_file(tmp_path / "d.safetensors")["unet.down_blocks.0.resnets.0.conv1.lora_A.weight"].shape == (
        2,
        4,
        3,
        3,
    )


def test_hcps_running_average_is_left_out(tmp_path):
    module = "down_blocks.0.resnets.0.conv1.___"
    parts = {"layer.W_down": torch.randn(2, 4), "layer.W_up": torch.randn(8, 2), "alpha": torch.tensor(0.5)}
    tensors = {
        f"{owner}:{module}.{leaf}": t + i for i, owner in enumerate(("lora", "lora_ema")) for leaf, t in parts.items()
    }
    save_file(tensors, tmp_path / "unet.safetensors")
    run(tmp_path / "unet.safetensors", tmp_path / "k.safetensors", family="sd1")
    found = load_file(tmp_path / "k.safetensors")
    assert torch.equal(found["lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight"], parts["layer.W_up"])
    assert len(found) == 3


ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
LAYER = "text_model.encoder.layers.0.self_attn"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"unet.{ATTENTION}.processor.to_out_lora.{{}}.weight", f"unet.{ATTENTION}.to_out.0"),
        (f"{ATTENTION}.processor.to_q_lora.{{}}.weight", f"unet.{ATTENTION}.to_q"),
        (f"unet.{ATTENTION}.to_k.lora.{{}}.weight", f"unet.{ATTENTION}.to_k"),
        (f"text_encoder.{LAYER}.to_v_lora.{{}}.weight", f"text_encoder.{LAYER}.v_proj"),
        (f"text_encoder.{LAYER}.out_proj.lora_linear_layer.{{}}.weight", f"text_encoder.{LAYER}.out_proj"),
        (
            "text_encoder.encoder.layers.0.mlp.fc1.lora_linear_layer.{}.weight",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        ),
    ],
)
def test_diffusers_older_names_become_todays(tmp_path, name, key):
    down, up = torch.randn(2, 4), torch.randn(8, 2)
    save_file({name.format("down"): down, name.format("up"): up}, tmp_path / "old.safetensors")
    run(tmp_path / "old.safetensors", tmp_path / "new.safetensors", to="diffusers")
    found = load_file(tmp_path / "new.safetensors")
    assert found.keys() == {f"{key}.lora_A.weight", f"{key}.lora_B.weight"}
    assert torch.equal(found[f"{key}.lora_A.weight"], down)
    assert torch.equal(found[f"{key}.lora_B.weight"], up)


def test_rslora_gets_the_alpha_of_its_factor(tmp_path):
    tensors = {
        f"unet.{ATTENTION}.to_q.lora_{side}.weight": torch.randn(shape)
        for side, shape in (("A", (9, 4)), ("B", (4, 9)))
    }
    told = {"unet.r": 9, "unet.lora_alpha": 6, "unet.use_rslora": True}
    save_file(tensors, tmp_path / "rs.safetensors", metadata={"lora_adapter_metadata": json.dumps(told)})
    run(tmp_path / "rs.safetensors", tmp_path / "k.safetensors", family="sd1")
    (alpha,) = (t for name, t in load_file(tmp_path / "k.safetensors").items() if name.endswith("alpha"))
    assert float(alpha) / 9 == 6 / 9**0.5


def test_a_tucker_convolution_is_multiplied_out(tmp_path):
    down, middle, up = torch.randn(2, 4, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(8, 2, 1, 1)
    key = "lora_unet_down_blocks_0_resnets_0_conv1"
    parts = {"lora_down.weight": down, "lora_mid.weight": middle, "lora_up.weight": up}
    save_file({f"{key}.{leaf}": tensor for leaf, tensor in parts.items()}, tmp_path / "k.safetensors")
    run(tmp_path / "k.safetensors", tmp_path / "d.safetensors", to="diffusers")
    (found,) = changes_of_diffusers(tmp_path / "d.safetensors").values()
    # webui's rebuild of a CP decomposition (network_lora.py)
    expected = torch.einsum("nmkl,in,mj->ijkl", middle, up.flatten(1), down.flatten(1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"hada_w1_a": (8, 2), "hada_w1_b": (2, 4), "hada_w2_a": (8, 2), "hada_w2_b": (2, 4)}, "2 LoHa layers"),
        ({"lora_down.weight": (2, 4), "lora_up.weight": (8, 2), "dora_scale": (1, 4)}, "2 DoRA layers"),
        ({"diff": (8, 4)}, "2 full-weight layers"),
        ({"lora_up.weight": (8, 2)}, "has no counterpart lora_down"),
        ({"lora_down.weight": (3, 4), "lora_up.weight": (8, 2)}, "do not fit"),
    ],
)
def test_what_has_no_form_in_the_other_dialect_is_refused_by_name(tmp_path, tensors, message):
    keys = [f"lora_unet_mid_block_attentions_0_{name}" for name in ("proj_in", "proj_out")]
    save_file(
        {f"{key}.{leaf}": torch.ones(shape) for key in keys for leaf, shape in tensors.items()},
        tmp_path / "k.safetensors",
    )
    with pytest.raises(ModelError, match=message):
        run(tmp_path / "k.safetensors", tmp_path / "d.safetensors", to="diffusers")


def test_metadata_goes_along_and_hashes_are_renewed(tmp_path, sources):
    run(sources["sdxl"], tmp_path / "d.safetensors", to="diffusers")
    run(tmp_path / "d.safetensors", tmp_path / "back.safetensors", family="sdxl")
    with safe_open(tmp_path / "back.safetensors", "pt") as file:
        told = file.metadata()
    assert (told["ss_output_name"], told["ss_base_model_version"]) == ("dog", "sdxl_base_v1-0")
    assert len(told["sshs_model_hash"]) == 64
    assert "lora_adapter_metadata" not in told


def test_a_dtype_alone_casts_all_but_alpha(tmp_path, sources):
    run(sources["sd1"], tmp_path / "half.safetensors", dtype="fp16")
    found = load_file(tmp_path / "half.safetensors")
    assert {t.dtype for name, t in found.items() if not name.endswith(".alpha")} == {torch.float16}
    assert {t.dtype for name, t in found.items() if name.endswith(".alpha")} == {torch.float32}


def test_numbers_too_large_for_the_dtype_are_refused(tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    save_file(
        {f"{key}.lora_down.weight": torch.full((2, 4), 1e5), f"{key}.lora_up.weight": torch.ones(8, 2)},
        tmp_path / "k.safetensors",
    )
    with pytest.raises(ModelError, match="fp16 ends"):
        run(tmp_path / "k.safetensors", tmp_path / "half.safetensors", dtype="fp16")


def test_a_form_must_be_named_where_nothing_tells(tmp_path, sources):
    with pytest.raises(ConfigError, match="in webui's form already"):
        run(sources["sd1"], tmp_path / "x.safetensors")


def test_hcp_needs_a_folder_for_two_parts(tmp_path, sources):
    with pytest.raises(ConfigError, match="a file for each part"):
        run(sources["sd1"], tmp_path / "x.safetensors", to="hcp")


@pytest.mark.parametrize("text", ["{", "[]", '{"unet.alpha_pattern": {"(a+)+$": 1}}', '{"unet.lora_alpha": "x"}'])
def test_metadata_that_cannot_be_read_is_told(tmp_path, text):
    tensors = {f"unet.{ATTENTION}.to_q.lora_{side}.weight": torch.randn(4, 4) for side in "AB"}
    save_file(tensors, tmp_path / "d.safetensors", metadata={"lora_adapter_metadata": text})
    with pytest.raises(ModelError, match="lora_adapter_metadata"):
        run(tmp_path / "d.safetensors", tmp_path / "k.safetensors", family="sd1")


def test_sdxls_unet_gets_the_names_that_every_reader_knows(tmp_path, sources):
    run(sources["sdxl"], tmp_path / "d.safetensors", to="diffusers", keeps_alpha=True)
    tensors = load_file(sources["sdxl"])
    paths = [
        name.rpartition(".lora_")[0] for name in load_file(tmp_path / "d.safetensors") if name.endswith("A.weight")
    ]
    names = {kohya_key(path, "sdxl"): kohya_key(path, "sd1") for path in paths if path.startswith("unet.")}
    keys = {name: name.partition(".") for name in tensors}
    other = {f"{names.get(key, key)}.{leaf}": tensors[name] for name, (key, _, leaf) in keys.items()}
    save_file(other, tmp_path / "other.safetensors")
    run(tmp_path / "other.safetensors", tmp_path / "back.safetensors", to="webui", family="sdxl")
    assert_same_file(tmp_path / "back.safetensors", sources["sdxl"])


def test_a_layer_under_two_names_is_refused(tmp_path):
    keys = ("lora_unet_middle_block_1_proj_in", "lora_unet_mid_block_attentions_0_proj_in")
    factors = {"lora_down.weight": (2, 4), "lora_up.weight": (8, 2)}
    tensors = {f"{key}.{leaf}": torch.ones(shape) for key in keys for leaf, shape in factors.items()}
    save_file(tensors, tmp_path / "k.safetensors")
    with pytest.raises(ModelError, match="2 times"):
        run(tmp_path / "k.safetensors", tmp_path / "d.safetensors", to="diffusers")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_answers_as_with_kohyas_file(tmp_path, models, sources, family):
    from diffusers import DiffusionPipeline

    folded, told = tmp_path / "folded.safetensors", tmp_path / "told.safetensors"
    run(sources[family], folded, to="diffusers")
    run(sources[family], told, to="diffusers", keeps_alpha=True)
    pipeline = DiffusionPipeline.from_pretrained(models[family].source.path, local_files_only=True)
    before = answer(pipeline)
    expected = answer_with(pipeline, sources[family])
    torch.testing.assert_close(answer_with(pipeline, folded), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(answer_with(pipeline, told), expected, rtol=0, atol=0)
    assert all((new - old).abs().max() > 0.01 for new, old in zip(expected, before, strict=True))


def answer_with(pipeline, path):
    pipeline.load_lora_weights(path)
    found = answer(pipeline)
    pipeline.unload_lora_weights()
    return found


@torch.no_grad()
def answer(pipeline):
    """Give the UNet's answer and the text encoders'."""
    draws = torch.Generator().manual_seed(2)
    unet = pipeline.unet
    latents = torch.randn(1, 4, 8, 8, generator=draws)
    text = torch.randn(1, 7, unet.config.cross_attention_dim, generator=draws)
    encoders = [getattr(pipeline, name) for name in ("text_encoder", "text_encoder_2") if name in pipeline.components]
    added = {
        "text_embeds": torch.randn(1, encoders[-1].config.projection_dim, generator=draws),
        "time_ids": torch.ones(1, 6),
    }
    noise = unet(latents, torch.tensor([400]), text, added_cond_kwargs=added).sample
    return [noise, *(encoder(torch.arange(9)[None])[0] for encoder in encoders)]
