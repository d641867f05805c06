"""Kind, family and dialect of files as each program writes them."""

import json
import struct

import pytest

from sdtune.errors import ModelError
from sdtune.formats.recognize import recognize
from sdtune.testing.tiny import tiny_sd1

WIDTHS = {"sd1": 768, "sd2": 1024, "sdxl": 2048}


def write_shapes(path, shapes, metadata=None, dtype="F16"):
    """Write a file of zeros that takes no room on disk: a header, and a hole."""
    header, start = {"__metadata__": metadata or {}}, 0
    for name, shape in shapes.items():
        size = 2 if dtype in ("F16", "BF16") else 4
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + start)
    return path


def pair(key, inputs, outputs, rank=4, kernel=()):
    return {
        f"{key}.lora_down.weight": (rank, inputs, *kernel),
        f"{key}.lora_up.weight": (outputs, rank, *(1 for _ in kernel)),
        f"{key}.alpha": (),
    }


CROSS = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
DOTTED = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize(("family", "width"), WIDTHS.items())
def test_cross_attention_tells_the_family_of_an_adapter(tmp_path, family, width):
    facts = recognize(write_shapes(tmp_path / "a.safetensors", pair(CROSS, width, 640)))
    assert (facts.kind, facts.family, facts.dialect) == ("lora", family, "kohya")
    assert str(width) in facts.family_reason


def test_widths_win_over_metadata(tmp_path):
    metadata = {"ss_base_model_version": "sd_v1"}
    facts = recognize(write_shapes(tmp_path / "a.safetensors", pair(CROSS, 2048, 640), metadata))
    assert facts.family == "sdxl"


@pytest.mark.parametrize(
    ("metadata", "family"),
    [
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sd_v2_v"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-v1/lora"}, "sd1"),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, "sd2"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "sdxl"),
        ({"ss_v2": "True"}, "sd2"),
        ({}, None),
    ],
)
def test_metadata_tells_the_family_where_widths_do_not(tmp_path, metadata, family):
    assert recognize(write_shapes(tmp_path / "a.safetensors", pair(CROSS, 64, 64), metadata)).family == family


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("lora_te2_text_model_encoder_layers_31_self_attn_out_proj", "sdxl"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_k", "sdxl"),
        ("lora_unet_output_blocks_2_2_conv", "sdxl"),
    ],
)
def test_names_tell_sdxl(tmp_path, key, family):
    assert recognize(write_shapes(tmp_path / "a.safetensors", pair(key, 64, 64))).family == family


def test_the_ends_of_attention_tell_sd1(tmp_path):
    key = "lora_unet_down_blocks_0_attentions_0_proj_in"
    assert recognize(write_shapes(tmp_path / "a.safetensors", pair(key, 32, 32, kernel=(1, 1)))).family == "sd1"
    assert recognize(write_shapes(tmp_path / "b.safetensors", pair(key, 32, 32))).family == "sd2"


DIALECTS = {
    "kohya": (f"{CROSS}.lora_down.weight", f"{CROSS}.lora_up.weight"),
    "diffusers": (f"unet.{DOTTED}.to_k.lora_A.weight", f"unet.{DOTTED}.to_k.lora_B.weight"),
    "diffusers_old": (
        f"unet.{DOTTED}.processor.to_k_lora.down.weight",
        f"unet.{DOTTED}.processor.to_k_lora.up.weight",
    ),
    "hcp": (f"lora:{DOTTED}.to_k.___.layer.W_down", f"lora:{DOTTED}.to_k.___.layer.W_up"),
}
LORA_A, LORA_B = ("to_k.lora_A", "to_k.lora_B")
MORE_DIALECTS = [
    *DIALECTS.items(),
    ("hcp", (f"{DOTTED}.to_k.___.layer.lora_down.weight", f"{DOTTED}.to_k.___.layer.lora_up.weight")),
    ("hcp", (f"base:denoiser.{DOTTED}.to_k.___.layer.W_down", f"base:denoiser.{DOTTED}.to_k.___.layer.W_up")),
    ("diffusers", (f"base_model.model.{DOTTED}.{LORA_A}.weight", f"base_model.model.{DOTTED}.{LORA_B}.weight")),
    ("diffusers", (f"unet.{DOTTED}.{LORA_A}.default.weight", f"unet.{DOTTED}.{LORA_B}.default.weight")),
    ("diffusers_old", (f"unet.{DOTTED}.to_k.lora.down.weight", f"unet.{DOTTED}.to_k.lora.up.weight")),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "names"), MORE_DIALECTS)
def test_every_dialect_is_recognised_and_its_family_read(tmp_path, dialect, names):
    down, up = names
    facts = recognize(write_shapes(tmp_path / "a.safetensors", {down: (4, 768), up: (640, 4)}))
    assert (facts.kind, facts.dialect, facts.family, facts.algorithms) == ("lora", dialect, "sd1", ("lora",))


def test_two_dialects_in_one_file_are_mixed(tmp_path):
    shapes = {name: (4, 4) for names in (DIALECTS["kohya"], DIALECTS["diffusers"]) for name in names}
    assert recognize(write_shapes(tmp_path / "a.safetensors", shapes)).dialect == "mixed"


ALGORITHMS = {
    "loha": {"hada_w1_a": (640, 4), "hada_w1_b": (4, 768), "hada_w2_a": (640, 4), "hada_w2_b": (4, 768)},
    "lokr": {"lokr_w1": (16, 16), "lokr_w2": (40, 48)},
    "full": {"diff": (640, 768)},
    "glora": {"a1.weight": (768, 4), "a2.weight": (4, 768), "b1.weight": (640, 4), "b2.weight": (4, 768)},
    "diag-oft": {"oft_blocks": (160, 4, 4)},
    "boft": {"oft_blocks": (3, 160, 4, 4)},
    "ia3": {"weight": (768,), "on_input": ()},
    "norms": {"w_norm": (640,), "b_norm": (640,)},
}


@pytest.mark.parametrize(("algorithm", "tensors"), ALGORITHMS.items())
def test_every_algorithm_is_told_by_its_tensors(tmp_path, algorithm, tensors):
    shapes = {f"{CROSS}.{leaf}": shape for leaf, shape in tensors.items()}
    facts = recognize(write_shapes(tmp_path / "a.safetensors", shapes))
    assert (facts.kind, facts.algorithms) == ("lycoris", (algorithm,))


@pytest.mark.parametrize("algorithm", ["loha", "lokr", "full", "glora"])
def test_factors_tell_the_width_of_the_layer(tmp_path, algorithm):
    shapes = {f"{CROSS}.{leaf}": shape for leaf, shape in ALGORITHMS[algorithm].items()}
    assert recognize(write_shapes(tmp_path / "a.safetensors", shapes)).family == "sd1"


@pytest.mark.parametrize(
    ("shapes", "family"),
    [
        ({"emb_params": (2, 768)}, "sd1"),
        ({"emb_params": (2, 1024)}, "sd2"),
        ({"clip_l": (2, 768), "clip_g": (2, 1280)}, "sdxl"),
        ({"<my-dog>": (768,)}, "sd1"),
        ({"emb_params": (2, 64)}, None),
    ],
)
def test_embeddings_are_told_by_their_widths(tmp_path, shapes, family):
    facts = recognize(write_shapes(tmp_path / "a.safetensors", shapes))
    assert (facts.kind, facts.family) == ("embedding", family)


@pytest.mark.parametrize("name", ["m.safetensors", "m"])
def test_a_tiny_model_is_recognised_in_both_layouts(tmp_path, name):
    facts = recognize(tiny_sd1(tmp_path / name))
    assert facts.kind == ("diffusers_folder" if name == "m" else "checkpoint")
    assert facts.family == "sd1"


@pytest.mark.parametrize(("part", "kind"), [("unet", "unet"), ("vae", "vae"), ("text_encoder", "text_encoder")])
def test_a_part_alone_is_recognised(tmp_path, part, kind):
    folder = tiny_sd1(tmp_path / "m") / part
    file = next(folder.glob("*.safetensors"))
    assert recognize(file).kind == kind
    assert recognize(folder).kind == kind


def test_a_controlnet_is_no_checkpoint(tmp_path):
    names = {"control_model.input_blocks.0.0.weight": (320, 4, 3, 3), "control_model.zero_convs.0.0.weight": (320,)}
    assert recognize(write_shapes(tmp_path / "c.safetensors", names)).kind == "controlnet"


def test_what_is_of_no_known_kind_is_unknown(tmp_path):
    assert recognize(write_shapes(tmp_path / "x.safetensors", {"a.weight": (2, 2), "b.bias": (2,)})).kind == "unknown"


@pytest.mark.parametrize("cut", [3, 40, -1])
def test_a_cut_file_is_refused(tmp_path, cut):
    path = write_shapes(tmp_path / "a.safetensors", pair(CROSS, 768, 640))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ModelError, match="cut short"):
        recognize(path)


def test_dtypes_are_counted(tmp_path):
    facts = recognize(write_shapes(tmp_path / "a.safetensors", pair(CROSS, 768, 640)))
    share = facts.dtypes["F16"]
    assert (share.tensors, share.parameters) == (3, 4 * 768 + 640 * 4 + 1) == (len(facts.tensors), facts.parameters)
    assert share.size_bytes == 2 * share.parameters


@pytest.mark.parametrize(("dtype", "data"), [("F32", "0000e03f"), ("F16", "003f"), ("BF16", "e03f")])
def test_scalars_are_read_without_torch(tmp_path, dtype, data):
    path = write_shapes(tmp_path / "a.safetensors", {"x": ()}, dtype=dtype)
    path.write_bytes(path.read_bytes()[: -len(bytes.fromhex(data))] + bytes.fromhex(data))
    assert recognize(path).contents.read_scalars(["x"]) == {"x": 1.75}
