"""At the end of a run its files are read back as other programs do."""

import json

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.errors import ModelError
from sdtune.testing.images import write_images
from sdtune.testing.runner import command, train
from sdtune.testing.tiny import tiny_model

BUNDLED = [sdtune_lora, sdtune_lycoris, sdtune_dreambooth, sdtune_textual_inversion, sdtune_hypernetwork]
METHODS = {
    "lora": ("lora.rank=4", "lora.alpha=2", "lora.conv_rank=2", "lora.text_encoder=true"),
    "lycoris": ("lycoris.algo=lokr",),
    "dylora": ("dylora.rank=4", "dylora.unit=2"),
    "dreambooth": ("save.dtype=fp32",),
    "textual_inversion": ("textual_inversion.token=zwx",),
    "hypernetwork": (),
    "lora+textual_inversion": ("textual_inversion.token=zwx",),
}
CAPTION, TIMESTEP = "a photo of a zwx toy", torch.tensor([500])
READING = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
LATENTS = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0))
_VAE = "first_stage_model."
FAMILIES = ("sd1", "sd2", "sdxl")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Give the options of a short run on a family's tiny model."""
    folder = tmp_path_factory.mktemp("certify")
    images = write_images(folder / "images", 2, sizes=[(128, 64)], caption="a photo of a zwx toy")[0].parent

    def options(run, family="sd1"):
        path = folder / family / "tiny.safetensors"
        if not path.exists():
            tiny_model(path, family)
        return (
            *(f"model.path={path}", f"data.path={images}", "data.resolution=128x64", "data.cache.latents=ram"),
            *(f"output.dir={run}", "output.name=thing", "output.certify=true", "log.tensorboard=false"),
            *("train.steps=3", "train.lr=1e-3"),
        )

    return options


@pytest.mark.parametrize("method", METHODS)
def test_every_bundled_method_passes(method, options, tmp_path):
    run = train(BUNDLED, *options(tmp_path / "run"), f"method={method}", *METHODS[method])
    facts = run.folder.read_facts()
    assert facts["state"] == "done"
    assert facts["certificate"].keys() == {file["name"] for file in facts["files"]}
    for rows in facts["certificate"].values():
        assert rows["a1111"]["used"] == rows["a1111"]["total"] > 0
        assert all(row["error"] is not None for row in rows.values() if "not_supported" not in row)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@pytest.mark.parametrize("method", ["lora", "dreambooth"])
def test_other_families_pass(method, family, options, tmp_path):
    run = train(BUNDLED, *options(tmp_path / "run", family), f"method={method}", *METHODS[method])
    assert run.folder.read_facts()["certificate"]["thing.safetensors"]["diffusers"]["used"] > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_diffusers_loads_a_trained_model_from_its_single_file(family, options, tmp_path):
    run = train(
        BUNDLED, *options(tmp_path / "run", family), "method=dreambooth", "save.dtype=fp32", "output.certify=false"
    )
    folder = tiny_model(tmp_path / "folder", family)
    is_xl = family == "sdxl"
    pipelines = (diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline)
    untrained = pipelines[is_xl].from_pretrained(folder, local_files_only=True)
    # it tells SDXL's text encoders apart by their widths alone, and those of the tiny model are of one width
    given = {"text_encoder_2": untrained.text_encoder_2} if is_xl else {}
    path = str(run.folder.exports / "thing.safetensors")
    pipeline = pipelines[is_xl].from_single_file(path, config=str(folder), local_files_only=True, **given)
    run.model.load("text_encoder")
    run.model.eval()
    with torch.no_grad():
        wanted = run.model.denoise(LATENTS, TIMESTEP, run.model.encode_prompt([CAPTION]))
    found, before = denoise(pipeline), denoise(untrained)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (found - wanted).norm() < 0.01 * (before - wanted).norm()


@torch.no_grad()
def denoise(pipeline):
    """Ask the UNet of diffusers' own pipeline, with its own reading of the caption."""
    texts = [text for text in pipeline.encode_prompt(CAPTION, **READING) if text is not None]
    added = None
    if len(texts) == 2:
        height, width = (8 * side for side in LATENTS.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        added = {"text_embeds": texts[1], "time_ids": sizes}
    return pipeline.unet(LATENTS, TIMESTEP, texts[0], added_cond_kwargs=added).sample


def test_the_file_tells_it(options, tmp_path):
    run = train(BUNDLED, *options(tmp_path / "run"), "method=lora")
    with safe_open(run.folder.exports / "thing.safetensors", "pt") as file:
        told = json.loads(file.metadata()["sdtune.certificate"])
    assert told == run.folder.read_facts()["certificate"]["thing.safetensors"]
    assert told["kohya"].keys() == {"used", "total", "error", "weights"}


def test_a_chosen_program_that_cannot_is_an_error_and_the_file_stays(options, tmp_path):
    chosen = ("method=hypernetwork", "output.consumers=[diffusers]")
    with pytest.raises(ModelError, match=r"diffusers does not use thing.pt as trained: not supported"):
        train(BUNDLED, *options(tmp_path / "run"), *chosen)
    assert (tmp_path / "run/exports/thing.pt").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "done"


@pytest.mark.parametrize("option", ["webui_dir", "comfyui_dir"])
def test_a_folder_that_gets_a_copy_chooses_its_program(option, options, tmp_path):
    (tmp_path / "ui").mkdir()
    given = (*options(tmp_path / "run"), "method=hypernetwork", f"output.{option}={tmp_path / 'ui'}")
    weak = ("hypernetwork.layer_norm=true", "hypernetwork.activation=relu", "hypernetwork.activate_output=false")
    if option == "comfyui_dir":
        with pytest.raises(ModelError, match=r"ComfyUI does not use thing.pt as trained: wrong by nature"):
            train(BUNDLED, *given, *weak)
        assert not list((tmp_path / "ui").rglob("*.pt"))
    else:
        train(BUNDLED, *given, *weak)
        assert len(list((tmp_path / "ui").rglob("*.pt"))) == 1


def test_a_chain_no_file_holds_is_no_fault(options, tmp_path):
    first = train(BUNDLED, *options(tmp_path / "first"), "method=hypernetwork").folder.exports / "thing.pt"
    run = train(BUNDLED, *options(tmp_path / "second"), "method=hypernetwork", f"hypernetwork.chain=[{first}]")
    assert run.folder.read_facts()["certificate"]["thing.pt"]["a1111"]["error"] == 0


def test_verify_refuses_what_it_cannot_compare_in_one_line(tmp_path, capsys):
    base = tiny_model(tmp_path / "sd1.safetensors", "sd1")
    other = tiny_model(tmp_path / "sdxl.safetensors", "sdxl")
    lora = {"unet.a.attn1.to_q.lora_A.weight": torch.ones(2, 8), "unet.a.attn1.to_q.lora_B.weight": torch.ones(8, 2)}
    save_file(lora, tmp_path / "peft.safetensors")
    tensors = load_file(base)
    vae = {name.removeprefix(_VAE): tensor for name, tensor in tensors.items() if name.startswith(_VAE)}
    save_file(vae, tmp_path / "vae.safetensors")
    tensors[f"{_VAE}quant_conv.bias"][0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    said = {
        other: "sdxl.safetensors is for sdxl, and",
        tmp_path: "is a folder; give a LoRA",
        tmp_path / "vae.safetensors": "is of a kind that is not verified; give a LoRA",
        tmp_path / "peft.safetensors": "has not the names of webuis",
        tmp_path / "nan.safetensors": "holds NaN or infinity in 1 of 964 tensors, first: first_stage",
    }
    codes = [command(BUNDLED, "verify", str(path), "--model", str(base)) for path in said]
    lines = capsys.readouterr().err.splitlines()
    assert codes == [4, 2, 4, 4, 4]
    assert [text in line for text, line in zip(said.values(), lines, strict=True)] == [True] * 5


def test_verify_tells_it_on_the_command_line(options, tmp_path, capsys):
    given = options(tmp_path / "run")
    path = train(BUNDLED, *given, "method=lora").folder.exports / "thing.safetensors"
    model = given[0].partition("=")[2]
    assert command(BUNDLED, "verify", str(path), "--model", model, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["programs"].keys() == {"a1111", "comfyui", "kohya", "diffusers"}
    assert command(BUNDLED, "verify", str(tmp_path / "no.safetensors"), "--model", model) == 2
    assert command(BUNDLED, "verify", str(path), "--model", "demo", "--for", "kohya") == 4
    assert "kohya (sd-scripts) does not use thing.safetensors as trained: refused" in capsys.readouterr().err
