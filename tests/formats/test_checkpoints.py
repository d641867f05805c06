"""Models there and back: every tensor of the model keeps its bits; what is left out is told."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdtune.errors import ConfigError, ModelError
from sdtune.export.writer import write_folder, write_tensors
from sdtune.formats.convert import convert
from sdtune.formats.outputs import FolderOutput, Request
from sdtune.formats.recognize import recognize
from sdtune.plugins import Registry
from sdtune.testing.tiny import tiny_model

FAMILIES = ("sd1", "sd2", "sdxl")
LEFTOVERS = {
    "model_ema.decay": torch.tensor(0.99),
    "model_ema.diffusion_modelinput_blocks00weight": torch.ones(2),
    "alphas_cumprod": torch.ones(1000),
}


def make(source, target):
    return convert(Request(source=recognize(source), target=target, registry=Registry.from_plugins([])))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Single files in fp16, each in a folder with its tokenizers."""
    root = tmp_path_factory.mktemp("models")
    return {family: tiny_model(root / family / "m.safetensors", family, dtype=torch.float16) for family in FAMILIES}


def run(source, target, *, overwrite=False, **options):
    request = Request(source=recognize(source), target=target, registry=Registry.from_plugins([]), **options)
    conversion = convert(request)
    (output,) = conversion.outputs
    if isinstance(output, FolderOutput):
        write_folder(output.path, output.files, overwrite=overwrite)
    else:
        write_tensors(output.path, output.tensors, output.metadata, overwrite=overwrite)
    return conversion.lines


def differences(found, expected):
    found, expected = load_file(found), load_file(expected)
    assert found.keys() == expected.keys()
    return [n for n, t in expected.items() if t.dtype != found[n].dtype or not torch.equal(t, found[n])]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_comes_back_from_a_folder_with_every_bit(tmp_path, paths, family):
    run(paths[family], tmp_path / "folder")
    run(tmp_path / "folder", tmp_path / "back.safetensors")
    assert differences(tmp_path / "back.safetensors", paths[family]) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_comes_back_from_a_single_file_with_every_bit(tmp_path, family):
    folder = tiny_model(tmp_path / "folder", family)
    run(folder, tmp_path / "m.safetensors")
    run(tmp_path / "m.safetensors", tmp_path / "back", tokenizer=folder / "tokenizer")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*.safetensors"))
    assert [differences(tmp_path / "back" / file, folder / file) for file in files] == [[]] * len(files)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_opens_the_folder(tmp_path, paths, family):
    from diffusers import DiffusionPipeline

    run(paths[family], tmp_path / "folder", dtype="fp32")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    stored = load_file(paths[family])["model.diffusion_model.input_blocks.0.0.weight"]
    assert torch.equal(pipeline.unet.conv_in.weight, stored.float())


def test_what_is_no_part_of_the_model_is_left_out_and_told(tmp_path, paths):
    save_file(load_file(paths["sd1"]) | LEFTOVERS, tmp_path / "m.safetensors")
    lines = run(tmp_path / "m.safetensors", tmp_path / "new.safetensors", dtype="fp16")
    assert {line for line in lines if line.startswith("left out")} == {
        "left out: 2 tensors of a running average (EMA)",
        "left out: 1 tensor of the noise schedule",
    }
    assert differences(tmp_path / "new.safetensors", paths["sd1"]) == []


def test_a_ckpt_becomes_the_same_single_file(tmp_path, paths):
    torch.save({"state_dict": load_file(paths["sd1"]), "global_step": 5}, tmp_path / "m.ckpt")
    run(tmp_path / "m.ckpt", tmp_path / "new.safetensors")
    assert differences(tmp_path / "new.safetensors", paths["sd1"]) == []


def test_a_dtype_casts_every_tensor(tmp_path, paths):
    lines = run(paths["sdxl"], tmp_path / "new.safetensors", dtype="bf16")
    assert {t.dtype for t in load_file(tmp_path / "new.safetensors").values()} == {torch.bfloat16}
    assert "bf16: cast to bf16" in lines[1]


def test_half_precision_of_sdxls_vae_is_warned_of(tmp_path, paths):
    lines = run(paths["sdxl"], tmp_path / "new.safetensors", dtype="fp16")
    assert any("VAE overflows in fp16" in line for line in lines)


def test_a_folder_of_something_else_is_never_replaced(tmp_path, paths):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    with pytest.raises(ConfigError, match="something else"):
        run(paths["sd1"], tmp_path / "photos", overwrite=True)


def test_the_folder_around_the_source_is_never_replaced(paths):
    with pytest.raises(ConfigError, match="holds the source"):
        run(paths["sd1"], paths["sd1"].parent, overwrite=True)


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("x.ckpt", None, "not written as .ckpt"),
        ("x", "webui", "do not go together"),
        ("x", "hcp", "HCP"),
        ("x.safetensors", "folder", "do not go together"),
    ],
)
def test_a_form_that_a_model_has_not_is_refused(tmp_path, paths, name, to, message):
    with pytest.raises(ConfigError, match=message):
        run(paths["sd1"], tmp_path / name, to=to)


def test_a_model_without_a_vae_is_refused(tmp_path, paths):
    tensors = {n: t for n, t in load_file(paths["sd1"]).items() if not n.startswith("first_stage_model.")}
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="no vae"):
        run(tmp_path / "m.safetensors", tmp_path / "folder")


@pytest.mark.parametrize("form", ["m.safetensors", "m"])
def test_a_model_that_predicts_v_gets_a1111s_yaml_again(tmp_path, form):
    source = tiny_model(tmp_path / "single" / "m.safetensors", "sd2")
    source.with_suffix(".yaml").write_text('model: {params: {parameterization: "v"}}')
    if form == "m":
        (folder,) = make(source, tmp_path / "m").outputs
        write_folder(folder.path, folder.files)
        source = folder.path
    file, sidecar = make(source, tmp_path / "new.safetensors").outputs
    assert "v_pred" in file.tensors
    assert sidecar.path == tmp_path / "new.yaml"
    assert b"parameterization: v" in sidecar.content
