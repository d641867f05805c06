"""Each stated fact against how the file was made."""

import json
import math
import random

import pytest
import torch
from safetensors.torch import save_file

from sdtune.config.model import ModelOptions
from sdtune.export.writer import write_tensors
from sdtune.formats.describe.document import describe
from sdtune.formats.describe.lines import short_bytes, short_number, to_rows
from sdtune.formats.recognize import recognize
from sdtune.models.architecture import SD1
from sdtune.models.prediction import read_parameterization
from sdtune.models.storage import open_storage
from sdtune.testing.tiny import tiny_model

FAMILIES = ("sd1", "sd2", "sdxl")
CROSS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
PLACE = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2"


def pair(key, *, rank=4, alpha=2.0, inputs=768, outputs=64, kernel=()):
    ones = tuple(1 for _ in kernel)
    return {
        f"{key}.lora_down.weight": torch.randn(rank, inputs, *kernel),
        f"{key}.lora_up.weight": torch.randn(outputs, rank, *ones),
    } | ({} if alpha is None else {f"{key}.alpha": torch.tensor(float(alpha))})


def look(path, tensors, metadata=None, **options):
    save_file(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path, metadata
    )
    return describe(recognize(path), **options)


def answers(document):
    return {answer["program"]: answer["answer"] for answer in document["loads_in"]}


HADAMARD = {f"{CROSS}.hada_w{n}_a": torch.ones(64, 4) for n in (1, 2)}
HADAMARD |= {f"{CROSS}.hada_w{n}_b": torch.ones(4, 768) for n in (1, 2)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


# adapters


def test_rank_alpha_and_scale_are_those_of_the_tensors(path):
    tensors = pair(CROSS, rank=4, alpha=2) | pair(CROSS.replace("to_k", "to_v"), rank=8, alpha=8)
    adapter = look(path, tensors | pair(CROSS.replace("to_k", "to_q"), rank=4, alpha=2))["adapter"]
    assert adapter["rank"] == {"min": 4, "most": 4, "max": 8}
    assert adapter["alpha"] == {"min": 2, "most": 2, "max": 8}
    assert adapter["scale"] == {"min": 0.5, "most": 0.5, "max": 1}


def test_a_missing_alpha_is_scale_one_and_noted(path):
    document = look(path, pair(CROSS, alpha=None))
    assert document["adapter"]["scale"]["most"] == 1
    assert document["adapter"]["without_alpha"] == 1
    assert any("no alpha" in remark for remark in document["remarks"])


def test_alpha_of_hcp_is_the_scale_itself(path):
    name = "lora:down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.___"
    tensors = {f"{name}.layer.W_down": torch.ones(16, 768), f"{name}.layer.W_up": torch.ones(64, 16)}
    adapter = look(path, tensors | {f"{name}.alpha": torch.tensor(0.125)})["adapter"]
    assert (adapter["rank"]["most"], adapter["scale"]["most"]) == (16, 0.125)


def test_peft_keeps_alpha_in_the_metadata(path):
    tensors = {f"{PLACE}.to_k.lora_A.weight": torch.ones(4, 768), f"{PLACE}.to_k.lora_B.weight": torch.ones(64, 4)}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})}
    assert look(path, tensors, metadata)["adapter"]["scale"]["most"] == 2


def test_layers_are_sorted_by_part_block_and_kind(path):
    keys = [
        CROSS,
        "lora_unet_down_blocks_0_resnets_0_time_emb_proj",
        "lora_unet_mid_block_attentions_0_proj_in",
        "lora_te_text_model_encoder_layers_11_mlp_fc1",
    ]
    tensors = {name: tensor for key in keys for name, tensor in pair(key, inputs=64).items()}
    tensors |= pair("lora_unet_up_blocks_3_resnets_0_conv1", inputs=64, kernel=(3, 3))
    parts = look(path, tensors)["adapter"]["parts"]
    assert list(parts["unet"]["layers"]) == ["attention", "projection", "resnet", "resnet_conv3"]
    assert parts["unet"]["blocks"] == {"down_1": 1, "down_0": 1, "mid": 1, "up_3": 1}
    assert parts["text_encoder"]["blocks"] == {"layer_11": 1}


def test_the_same_layer_has_the_same_place_in_both_unet_namings(path):
    both = ["lora_unet_input_blocks_4_0_in_layers_2", "lora_unet_down_blocks_1_resnets_0_conv1"]
    found = [look(path, pair(key, kernel=(3, 3)))["adapter"]["parts"]["unet"] for key in both]
    assert [list(part["layers"]) for part in found] == [["resnet_conv3"]] * 2


@pytest.mark.parametrize(("shape", "axis"), [((1, 768), "input"), ((64, 1), "output"), ((64,), "output")])
def test_the_axis_of_dora_is_told(path, shape, axis):
    document = look(path, pair(CROSS) | {f"{CROSS}.dora_scale": torch.ones(shape)})
    assert document["adapter"]["dora_axis"] == axis
    assert answers(document)["A1111"] == ("yes" if axis == "input" else "wrong")


def test_a_plain_file_loads_everywhere(path):
    assert set(answers(look(path, pair(CROSS))).values()) == {"yes"}


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (
            HADAMARD,
            {"A1111": "yes", "Forge": "yes", "ComfyUI": "yes", "sd-scripts": "no", "diffusers": "no"},
        ),
        (
            {f"{CROSS}.oft_blocks": torch.zeros(16, 4, 4), f"{CROSS}.alpha": torch.tensor(0.0)},
            {"A1111": "yes", "ComfyUI": "yes", "sd-scripts": "no", "diffusers": "no", "Forge": "no"},
        ),
        (
            pair("lora_te_encoder_layers_0_self_attn_q_proj"),
            {"A1111": "no", "Forge": "no", "ComfyUI": "no", "sd-scripts": "no", "diffusers": "yes"},
        ),
        (
            pair("lora_unet_conv_in", kernel=(3, 3), inputs=4) | pair(CROSS),
            {"A1111": "yes", "Forge": "yes", "ComfyUI": "yes", "sd-scripts": "partly", "diffusers": "yes"},
        ),
        (
            pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", inputs=1024) | pair(CROSS, inputs=1024),
            {"A1111": "partly", "Forge": "yes", "ComfyUI": "yes", "sd-scripts": "yes", "diffusers": "yes"},
        ),
        (
            pair(CROSS) | {"bundle_emb.dog.string_to_param.*": torch.ones(1, 768)},
            {"A1111": "yes", "Forge": "yes", "ComfyUI": "yes", "sd-scripts": "yes", "diffusers": "no"},
        ),
        (
            pair(CROSS) | pair("lora_unet_down_blocks_0_attentions_0_proj_in", inputs=64),
            {"A1111": "yes", "Forge": "yes", "ComfyUI": "yes", "sd-scripts": "no", "diffusers": "no"},
        ),
    ],
    ids=["loha", "oft", "no text_model", "ends", "half an attention", "bundled", "flat proj_in of SD1"],
)  # fmt: skip
def test_who_loads_a_file_follows_its_tensors(path, tensors, expected):
    assert answers(look(path, tensors)) == expected


def test_forge_drops_a_file_with_many_names_it_does_not_know(path):
    keys = [f"lora_te_encoder_layers_{n}_self_attn_q_proj" for n in range(7)]
    document = look(path, pair(CROSS) | {n: t for key in keys for n, t in pair(key).items()})
    assert (answers(document)["Forge"], answers(document)["A1111"]) == ("no", "partly")


def test_other_dialects_load_where_they_are_read(path):
    tensors = {f"{PLACE}.to_k.lora_A.weight": torch.ones(4, 768), f"{PLACE}.to_k.lora_B.weight": torch.ones(64, 4)}
    expected = {"A1111": "no", "Forge": "no", "ComfyUI": "no", "sd-scripts": "no", "diffusers": "yes"}
    assert answers(look(path, tensors)) == expected


def test_metadata_that_hides_a_file_in_webui_is_noted(path):
    document = look(path, pair(CROSS, inputs=2048), {"ss_network_dim": "4"})
    assert any("A1111 list it as SD1" in remark for remark in document["remarks"])


def test_metadata_that_contradicts_the_weights_is_noted(path):
    document = look(path, pair(CROSS, inputs=2048), {"ss_base_model_version": "sd_v1"})
    assert any("sd_v1" in remark and "2048" in remark for remark in document["remarks"])


def test_training_is_read_from_metadata(path):
    metadata = {
        "ss_steps": "1200",
        "ss_resolution": "(512, 768)",
        "ss_tag_frequency": json.dumps({"10_dog": {"dog": 5, "a": 1}, "5_cat": {"dog": 2}}),
        "ss_dataset_dirs": json.dumps({"10_dog": {"n_repeats": 10, "img_count": 5}}),
        "ss_training_started_at": "100.0",
        "ss_training_finished_at": "160.5",
        "ss_unet_lr": "None",
        "modelspec.trigger_phrase": "zwx dog",
    }
    training = look(path, pair(CROSS), metadata)["training"]
    assert training == {
        "trigger": "zwx dog",
        "steps": 1200,
        "resolution": "512x768",
        "tags": [{"tag": "dog", "count": 7}, {"tag": "a", "count": 1}],
        "folders": [{"name": "10_dog", "repeats": 10, "images": 5}],
        "date": "1970-01-01T00:02:40+00:00",
        "seconds": 60,
    }


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', "NaN", '{"a": {"b": "c"}}'])
def test_broken_metadata_is_passed_over(path, text):
    keys = ("ss_tag_frequency", "ss_dataset_dirs", "ss_resolution", "ss_steps", "lora_adapter_metadata")
    assert look(path, pair(CROSS), dict.fromkeys(keys, text))["kind"] == "lora"


def test_the_stated_hash_is_checked(tmp_path):
    tensors = pair(CROSS)
    write_tensors(tmp_path / "true.safetensors", tensors, {}, overwrite=False)
    true = describe(recognize(tmp_path / "true.safetensors"))["hashes"]
    stale = look(tmp_path / "stale.safetensors", pair(CROSS), {"sshs_model_hash": true["stated"]})
    assert (true["state"], stale["hashes"]["state"]) == ("true", "stale")
    assert any("hash" in remark for remark in stale["remarks"])


def test_strength_is_the_norm_of_the_change(path):
    down, up, core = torch.randn(4, 6, 3, 3), torch.randn(8, 4, 1, 1), torch.randn(4, 4, 3, 3)
    small, large = torch.randn(2, 3), torch.randn(4, 5, 3, 3)
    name = "lora_unet_down_blocks_0_resnets_{}_conv1"
    tensors = {
        f"{name.format(0)}.lora_down.weight": down,
        f"{name.format(0)}.lora_up.weight": up,
        f"{name.format(0)}.alpha": torch.tensor(2.0),
        f"{name.format(1)}.lora_down.weight": down[:, :, :1, :1],
        f"{name.format(1)}.lora_up.weight": up,
        f"{name.format(1)}.lora_mid.weight": core,
        f"{name.format(2)}.lokr_w1": small,
        f"{name.format(2)}.lokr_w2": large,
        f"{name.format(2)}.alpha": torch.tensor(7.0),
    }
    norms = [
        torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down).norm() * 2 / 4,
        torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], core, down[:, :, 0, 0]).norm(),
        torch.kron(small[:, :, None, None], large).norm(),
    ]
    strength = look(path, tensors, weights=True)["weights"]["strength"]
    assert strength["modules"] == 3
    assert strength["mean"] == pytest.approx(float(sum(norms)) / 3, rel=1e-5)
    assert strength["largest"]["value"] == pytest.approx(float(max(norms)), rel=1e-5)


def test_numbers_that_are_not_finite_are_counted(path):
    tensors = pair(CROSS)
    tensors[f"{CROSS}.lora_up.weight"][:2, 0] = math.nan
    found = look(path, tensors, weights=True)["weights"]["not_finite"]
    assert found == {"tensors": 1, "elements": 2, "names": [f"{CROSS}.lora_up.weight"]}


# models


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("suffix", [".safetensors", ""])
def test_a_model_is_whole_in_both_layouts(tmp_path, family, suffix):
    document = describe(recognize(tiny_model(tmp_path / f"m{suffix}", family)))
    model = document["model"]
    assert document["family"] == family
    assert (model["task"], model["missing_parts"], model["strays"]) == ("text to image", [], [])
    assert [part["missing"] for part in model["parts"].values()] == [[]] * (4 if family == "sdxl" else 3)
    assert document["remarks"] == []


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    from safetensors.torch import load_file

    return load_file(tiny_model(tmp_path_factory.mktemp("tiny") / "m.safetensors", "sd1"))


@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight",
        "first_stage_model.decoder.mid.attn_1.k.bias",
        "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2.bias",
    ],
)
def test_a_missing_tensor_is_named(path, weights, name):
    parts = look(path, {key: value for key, value in weights.items() if key != name})["model"]["parts"]
    missing = [inner for part in parts.values() for inner in part["missing"]]
    assert len(missing) == 1
    assert missing[0].split(".")[-1] == name.split(".")[-1]


def test_what_belongs_to_nothing_is_named(path, weights):
    strays = {"first_stage_model.loss.logvar", "model.diffusion_model.extra.weight", "rubbish"}
    extra = {name: torch.zeros(2) for name in strays} | {"betas": torch.zeros(4), "model_ema.decay": torch.zeros(())}
    model = look(path, weights | extra | {"model_ema.diffusion_modelout0weight": torch.zeros(2)})["model"]
    assert set(model["strays"]) == strays
    assert (model["ema_tensors"], model["schedule_buffers"]) == (1, 2)


def test_position_ids_of_a_merge_are_noted(path, weights):
    name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    document = look(path, weights | {name: torch.arange(77.0)[None]})
    assert document["model"]["parts"]["text_encoder"]["position_ids"] == "F32"
    assert len(document["remarks"]) == 1


def test_an_inpainting_model_is_told(path, weights):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    model = look(path, weights | {name: torch.zeros(32, 9, 3, 3)})["model"]
    assert (model["task"], model["input_channels"]) == ("inpainting", 9)


def test_a_missing_part_is_noted(path, weights):
    document = look(path, {name: value for name, value in weights.items() if not name.startswith("first_stage")})
    assert document["model"]["missing_parts"] == ["vae"]


def test_prediction_is_told_by_marks_and_disputes_are_noted(path, weights):
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    found = look(path, weights | marks, {"modelspec.prediction_type": "epsilon"})
    prediction = found["model"]["prediction"]
    assert (prediction["kind"], prediction["zero_terminal_snr"]) == ("v_prediction", True)
    assert any("disagree" in remark for remark in found["remarks"])


def test_the_configuration_beside_a_file_tells_its_prediction(path, weights):
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    document = look(path, weights)
    assert document["model"]["prediction"]["kind"] == "v_prediction"
    assert document["sidecars"] == ["a.yaml"]


@pytest.mark.parametrize(
    ("marks", "metadata", "yaml"),
    [
        ((), {}, ""),
        (("v_pred",), {}, ""),
        (("ztsnr",), {}, ""),
        ((), {"modelspec.prediction_type": "v"}, ""),
        ((), {"modelspec.architecture": "stable-diffusion-v2-768-v"}, ""),
        (("v_pred",), {}, "model:\n  params:\n    parameterization: eps\n"),
    ],
)
def test_inspection_and_training_take_a_model_for_the_same(path, weights, marks, metadata, yaml):
    if yaml:
        path.with_suffix(".yaml").write_text(yaml)
    told = look(path, weights | {mark: torch.zeros(0) for mark in marks}, metadata)["model"]["prediction"]
    storage = open_storage(path, SD1)
    trained = read_parameterization(ModelOptions(path=str(path)), storage, SD1)
    assert (told["kind"], told["reason"], told["zero_terminal_snr"]) == (
        trained.prediction,
        trained.source,
        trained.zero_snr,
    )


def test_a_model_that_training_refuses_has_the_refusal_for_its_reason(path, weights):
    prediction = look(path, weights | {"edm_mean": torch.zeros(4)})["model"]["prediction"]
    assert prediction["kind"] is None
    assert "EDM" in prediction["reason"]


@pytest.mark.parametrize(("spread", "kind"), [(0.12, "v_prediction"), (0.05, "epsilon")])
def test_comfyuis_test_tells_the_prediction_of_sd2(tmp_path, spread, kind):
    from safetensors.torch import load_file

    path = tiny_model(tmp_path / "m.safetensors", "sd2")
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    values = torch.tensor([spread, -spread] * 160)
    assert look(path, load_file(path) | {name: values})["model"]["prediction"]["kind"] == kind


def test_a_ckpt_reads_as_its_safetensors_twin(tmp_path, weights):
    torch.save({"state_dict": dict(weights), "global_step": 7}, tmp_path / "m.ckpt")
    pickled, plain = describe(recognize(tmp_path / "m.ckpt")), look(tmp_path / "m.safetensors", weights)
    assert pickled["form"] == "pickle"
    assert {**pickled["model"], "strays": []} == plain["model"]


# embeddings


def test_an_embedding_of_webui_is_read(tmp_path):
    vectors = torch.stack([torch.full((768,), 0.5), torch.zeros(768)])
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "x", "step": 9}
    torch.save(content | {"sd_checkpoint": "0123456789", "sd_checkpoint_name": "base"}, tmp_path / "dog.pt")
    document = describe(recognize(tmp_path / "dog.pt"))
    embedding = document["embedding"]
    assert (document["kind"], document["family"]) == ("embedding", "sd1")
    assert embedding["encoders"]["clip_l"]["norms"] == [float(f"{0.5 * 768**0.5:.4g}"), 0]
    assert (embedding["name"], embedding["step"], embedding["base_model"]) == ("dog", 9, "base")


def test_an_sdxl_embedding_with_unequal_counts_works_nowhere(path):
    document = look(path, {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(3, 1280)})
    assert set(answers(document).values()) == {"no"}


def test_an_sdxl_embedding_goes_into_diffusers_tensor_by_tensor(path):
    document = look(path, {"clip_l": torch.ones(2, 768), "clip_g": torch.ones(2, 1280)})
    assert answers(document)["diffusers"] == "partly"
    assert answers(document)["A1111"] == "yes"


# hypernetworks


def network(width=768, **fields):
    state = {"linear.0.weight": torch.ones(2 * width, width), "linear.1.weight": torch.ones(width, 2 * width)}
    every = {
        "layer_structure": [1, 2, 1],
        "activation_func": "linear",
        "is_layer_norm": False,
        "activate_output": False,
        "use_dropout": False,
        "step": 5,
    }
    return {width: (state, dict(state))} | every | fields


@pytest.mark.parametrize(
    ("fields", "comfyui"),
    [
        ({}, "yes"),
        ({"activation_func": "relu"}, "yes"),
        ({"activation_func": "gelu"}, "no"),
        ({"activation_func": "relu", "is_layer_norm": True}, "wrong"),
        ({"activation_func": "relu", "is_layer_norm": True, "activate_output": True}, "yes"),
        ({"use_dropout": True}, "wrong"),
    ],
)
def test_comfyui_reads_what_it_computes_as_webui_does(tmp_path, fields, comfyui):
    torch.save(network(**fields), tmp_path / "h.pt")
    document = describe(recognize(tmp_path / "h.pt"))
    assert (document["kind"], document["family"]) == ("hypernetwork", "sd1")
    assert answers(document)["ComfyUI"] == comfyui


def test_layers_of_another_size_than_told_are_noted(tmp_path):
    torch.save(network(layer_structure=[1, 3, 1]), tmp_path / "h.pt")
    assert describe(recognize(tmp_path / "h.pt"))["hypernetwork"]["shapes_fit"] is False


# words


def test_rows_say_the_same_as_the_document(path):
    rows = dict(to_rows(look(path, pair(CROSS))))
    assert rows["kind"] == "LoRA for Stable Diffusion 1"
    assert rows["factors"] == "rank 4, alpha 2, scale 0.5"
    assert rows["UNet"] == "1 layer (down 1)"


@pytest.mark.parametrize(("count", "text"), [(999, "999 bytes"), (1000, "1 kB"), (37_949_000, "37.9 MB")])
def test_sizes_have_three_digits(count, text):
    assert short_bytes(count) == text


def test_numbers_have_three_digits():
    assert short_number(859_520_964) == "860 million"


# malformed files

LEAVES = """
    lora_down.weight lora_up.weight lora_mid.weight alpha hada_w1_a hada_w1_b hada_w2_a hada_w2_b hada_t1 lokr_w1
    lokr_w2 lokr_w1_a lokr_w2_b lokr_t2 diff diff_b a1.weight a2.weight b1.weight b2.weight oft_blocks rescale w_norm
    on_input dora_scale
""".split()
MODELS = """
    model.diffusion_model.input_blocks.0.0.weight model.diffusion_model.out.2.weight clip_l string_to_param.*
    conv_in.weight time_embedding.linear_1.weight first_stage_model.encoder.conv_in.weight
    text_model.embeddings.token_embedding.weight
""".split()


@pytest.mark.parametrize("seed", range(40))
def test_any_mixture_of_names_and_shapes_is_told_without_a_fault(path, seed):
    chance = random.Random(seed)
    names = [f"{CROSS}.{leaf}" for leaf in chance.sample(LEAVES, chance.randrange(6))]
    names += chance.sample(MODELS, chance.randrange(1, 4))
    tensors = {
        name: torch.full([chance.choice((0, 1, 2, 4)) for _ in range(chance.randrange(5))], 0.5) for name in names
    }
    document = look(path, tensors, weights=True, keys=True)
    assert json.dumps(document, allow_nan=False)
    assert to_rows(document)
