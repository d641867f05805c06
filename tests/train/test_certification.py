"""Whenever a run writes files they are read back as other programs do."""

import json
from dataclasses import replace

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
from sdtune.errors import ConfigError, ModelError, StoppedError
from sdtune.export.certificate import READABLE
from sdtune.testing.images import write_images
from sdtune.testing.runner import command, resume_training, train
from sdtune.testing.tiny import tiny_model
from sdtune.train.planning import fitting
from sdtune_lora.method import LoraMethod

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
    forms = {path.name for path in run.folder.exports.iterdir() if path.suffix in READABLE}
    assert facts["certificate"].keys() == forms >= {file["name"] for file in facts["files"]}
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


@pytest.fixture
def untold(monkeypatch):
    """Let runs begin of which it is known already that a program will not read their files."""
    monkeypatch.setattr(fitting, "look_ahead", lambda run, registry: None)


@pytest.mark.usefixtures("untold")
def test_a_chosen_program_that_cannot_is_an_error_and_the_file_stays(options, tmp_path):
    chosen = ("method=hypernetwork", "output.consumers=[diffusers]")
    with pytest.raises(ModelError, match=r"diffusers does not use thing.pt as trained: not supported"):
        train(BUNDLED, *options(tmp_path / "run"), *chosen)
    assert (tmp_path / "run/exports/thing.pt").exists()
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "done"


@pytest.mark.usefixtures("untold")
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


def test_every_form_of_a_word_is_read_by_the_programs_that_load_it(options, tmp_path):
    """That ComfyUI reads no pictures is no fault: what it gets is the first form."""
    word = ("method=textual_inversion", "textual_inversion.token=zwx", "textual_inversion.formats=[pt,safetensors,png]")
    run = train(BUNDLED, *options(tmp_path / "run"), *word, "output.consumers=[a1111,comfyui]")
    found = run.folder.read_facts()["certificate"]
    assert {file: set(rows) for file, rows in found.items()} == {
        "zwx.pt": {"a1111", "comfyui"},
        "zwx.safetensors": {"a1111", "comfyui"},
        "zwx.png": {"a1111"},
    }
    assert all(row["error"] == row["weights"] == 0 for rows in found.values() for row in rows.values())


def test_the_folder_of_a_webui_tells_which_it_is(options, tmp_path):
    """Forge lists a hypernetwork, and does nothing with it."""
    (tmp_path / "ui/modules_forge").mkdir(parents=True)
    given = (*options(tmp_path / "run"), "method=hypernetwork", f"output.webui_dir={tmp_path / 'ui'}")
    with pytest.raises(ConfigError, match=r"Forge will not use thing.pt as trained: not supported: .* no effect"):
        train(BUNDLED, *given)


def test_verify_refuses_what_it_cannot_compare_in_one_line(tmp_path, capsys):
    base = tiny_model(tmp_path / "sd1.safetensors", "sd1")
    other = tiny_model(tmp_path / "sdxl.safetensors", "sdxl")
    tensors = load_file(base)
    vae = {name.removeprefix(_VAE): tensor for name, tensor in tensors.items() if name.startswith(_VAE)}
    save_file(vae, tmp_path / "vae.safetensors")
    tensors[f"{_VAE}quant_conv.bias"][0] = torch.nan
    save_file(tensors, tmp_path / "nan.safetensors")
    said = {
        other: "sdxl.safetensors is for sdxl, and",
        tmp_path: "is a folder; give a LoRA",
        tmp_path / "vae.safetensors": "is of a kind that is not verified; give a LoRA",
        tmp_path / "nan.safetensors": "holds NaN or infinity in 1 of 964 tensors, first: first_stage",
    }
    codes = [command(BUNDLED, "verify", str(path), "--model", str(base)) for path in said]
    lines = capsys.readouterr().err.splitlines()
    assert codes == [4, 2, 4, 4]
    assert [text in line for text, line in zip(said.values(), lines, strict=True)] == [True] * 4


def test_verify_tells_it_on_the_command_line(options, tmp_path, capsys):
    given = options(tmp_path / "run")
    path = train(BUNDLED, *given, "method=lora").folder.exports / "thing.safetensors"
    model = given[0].partition("=")[2]
    assert command(BUNDLED, "verify", str(path), "--model", model, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["programs"].keys() == {"a1111", "forge", "comfyui", "kohya", "diffusers"}
    assert command(BUNDLED, "verify", str(tmp_path / "no.safetensors"), "--model", model) == 2
    assert command(BUNDLED, "verify", str(path), "--model", "demo", "--for", "kohya") == 4
    told = capsys.readouterr()
    assert told.out.count("refused") == 1
    assert "thing.safetensors does not work as trained in kohya (sd-scripts); see the table" in told.err
    assert "refused" not in told.err


def trained_weights(run):
    return {name: parameter.detach().clone() for name, parameter in run.parameters().items()}


def losses(run):
    return [json.loads(line)["loss"] for line in run.folder.metrics.read_text().splitlines()]


ONE, TWO = "output.consumers=[a1111]", "output.consumers=[a1111,diffusers]"
FUSED = ("train.fused_backward=true", "train.max_grad_norm=0")
EPOCHS = ("train.steps=null", "train.epochs=2", "save.every_epochs=1", "train.ema.decay=0.5", "train.ema.export=both")


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("lora", ("lora.rank=4", "lora.dropout=0.3", "lora.module_dropout=0.3", "lora.text_encoder=true", TWO)),
        (
            "dreambooth",
            ("save.dtype=fp32", *FUSED, ONE),
        ),
        (
            "textual_inversion",
            ("textual_inversion.token=zwx", "textual_inversion.formats=[pt]", ONE),
        ),
        ("hypernetwork", ("hypernetwork.dropout=[0.0,0.3,0.0]", ONE)),
    ],
)
def test_every_export_is_read_back_and_training_does_not_feel_it(method, more, options, tmp_path):
    given = (*EPOCHS, f"method={method}", *more)
    plain = train(BUNDLED, *options(tmp_path / "plain"), *given, "output.certify=false")
    run = train(BUNDLED, *options(tmp_path / "run"), *given)
    assert losses(run) == losses(plain)
    weights = trained_weights(plain)
    assert all(weights[name].equal(value) for name, value in trained_weights(run).items())
    found = run.folder.read_facts()["certificate"]
    assert found.keys() == {path.name for path in run.folder.exports.iterdir()}
    assert {name.partition("-")[2].partition(".")[0] for name in found} == {"", "000001", "live", "000001-live"}
    assert all("fault" not in row and row["used"] == row["total"] for rows in found.values() for row in rows.values())
    assert [module.training for module in run.model.modules()] == [module.training for module in plain.model.modules()]


@pytest.fixture
def wrong_at_first(monkeypatch):
    """Let LoRA's first file have the wrong alphas."""
    export = LoraMethod.export

    def faulty(self, model, run):
        for artifact in export(self, model, run):
            factor = 2 if run.suffix == "-000001" else 1
            wrong = {name: t * factor if name.endswith("alpha") else t for name, t in artifact.tensors.items()}
            yield replace(artifact, tensors=wrong)

    monkeypatch.setattr(LoraMethod, "export", faulty)


FAULT = "A1111 does not use thing-000001.safetensors as trained: another effect than trained"


@pytest.mark.usefixtures("wrong_at_first")
def test_a_fault_is_told_at_once_and_again_at_the_end(options, tmp_path, capsys):
    (tmp_path / "ui").mkdir()
    given = (*options(tmp_path / "run"), *EPOCHS[:3], "method=lora", f"output.webui_dir={tmp_path / 'ui'}")
    assert command(BUNDLED, "train", *given, ONE, "log.check=false") == 4
    said = capsys.readouterr().err
    at_once, _, at_the_end = said.partition("saved: ")
    assert "read back: 0 of 1 programs good, thing-000001.safetensors" in at_once
    assert FAULT in at_once
    assert FAULT in at_the_end
    facts = json.loads((tmp_path / "run/run.json").read_text())
    assert facts["state"] == "done"
    assert "another effect" in facts["certificate"]["thing-000001.safetensors"]["a1111"]["fault"]
    assert "fault" not in facts["certificate"]["thing.safetensors"]["a1111"]
    assert [path.name for path in (tmp_path / "ui").rglob("*.safetensors")] == ["thing.safetensors"]


@pytest.mark.usefixtures("wrong_at_first")
def test_a_resumed_run_remembers_the_fault(options, tmp_path):
    given = (*options(tmp_path / "run"), *EPOCHS[:3], "method=lora", ONE)
    with pytest.raises(StoppedError):
        train(BUNDLED, *given, stop_after=1)
    with pytest.raises(ModelError, match=FAULT):
        resume_training(BUNDLED, tmp_path / "run")


def test_without_memory_it_is_a_warning(options, tmp_path, monkeypatch, caplog):
    def use_up(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("sdtune.export.certificate.certify", use_up)
    run = train(BUNDLED, *options(tmp_path / "run"), *EPOCHS[:3], "method=lora")
    assert run.folder.read_facts()["certificate"] == {}
    assert caplog.text.count("not read back as other programs do: memory does not suffice") == 2


def test_the_file_of_the_best_step_is_read_back(options, tmp_path):
    first, second, *_ = write_images(apart := tmp_path / "apart", 6, sizes=[(128, 64)], caption="a photo of a zwx toy")
    first.unlink()  # these two are trained on
    second.unlink()
    measured = (f"validation.path={apart}", "validation.timesteps=1", "validation.every_steps=2")
    run = train(BUNDLED, *options(tmp_path / "run"), *measured, "method=lora", ONE)
    found = run.folder.read_facts()["certificate"]
    assert found.keys() == {"thing-best.safetensors", "thing.safetensors"}
    assert all("fault" not in rows["a1111"] for rows in found.values())
