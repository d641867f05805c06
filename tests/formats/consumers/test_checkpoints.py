"""Whole models: good ones are read by all, and one wrong tensor is found by the program that trips over it."""

import re

import pytest
import torch
from safetensors.torch import save_file

from sdtune.config.model import ModelOptions
from sdtune.export.certificate import certify
from sdtune.export.probe import Probe, ask
from sdtune.formats.consumers.reading import File, open_file
from sdtune.models.open import open_model
from sdtune.plugins import Registry
from sdtune.testing.tiny import SHALLOW, tiny_model

pytestmark = pytest.mark.slow

PROBE = Probe(captions=("a photo of zwx", "a red circle"), has_vae=True)
OPEN = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}


@pytest.fixture
def whole(open_base):
    """Give a family's base model with its VAE, and the file of that model with another UNet and text encoder."""

    def whole(family):
        base = open_base(family)
        base.load("vae")
        tensors = {name: tensor.clone() for name, tensor in base.webui_state_dict().items()}
        generator = torch.Generator().manual_seed(0)
        for name, tensor in tensors.items():
            if not name.startswith("first_stage_model.") and tensor.dim() == 2:
                tensor *= 1 + 0.3 * torch.rand(tensor.shape, generator=generator)
        return base, tensors

    return whole


@pytest.fixture
def faults(file):
    def faults(tensors, base, *chosen):
        made = certify([file(tensors, "checkpoint")], base, PROBE, trained=None, chosen=chosen)
        return {row.consumer: text for row, text in made.faults()}

    return faults


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_program_reads_a_good_model(family, whole, file):
    base, tensors = whole(family)
    before = ask(base, PROBE)
    made = certify([file(tensors, "checkpoint")], base, PROBE, trained=None)
    assert made.faults() == []
    assert made.effect > 0.01
    assert [row.consumer for row in made.rows] == ["a1111", "forge", "comfyui", "kohya", "diffusers"]
    assert max(row.error for row in made.rows) < 1e-4  # diffusers' own are not contiguous, so sums run otherwise
    assert all(torch.equal(before[name], answer) for name, answer in ask(base, PROBE).items())


@pytest.mark.parametrize("consumer", ["a1111", "forge", "comfyui"])
def test_a_flat_attention_in_the_vae_is_refused(consumer, whole, faults):
    base, tensors = whole("sd1")
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    found = faults(tensors | {name: tensors[name].flatten(1)}, base, consumer)
    assert re.search("refused: its shape is wrong: first_stage_model.encoder.mid.attn_1.q", found[consumer])


def test_a_flat_attention_in_the_vae_is_taken_by_strict_scripts(whole, faults):
    base, tensors = whole("sd1")
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    assert faults(tensors | {name: tensors[name].flatten(1)}, base, "kohya", "diffusers") == {}


@pytest.mark.parametrize("consumer", ["a1111", "forge", "comfyui", "kohya", "diffusers"])
def test_a_missing_weight_is_refused(consumer, whole, faults):
    base, tensors = whole("sd1")
    del tensors["model.diffusion_model.input_blocks.1.1.proj_in.weight"]
    assert "refused" in faults(tensors, base, consumer)[consumer]


def test_a_stranger_in_the_text_encoder_ends_kohyas_scripts(whole, faults):
    base, tensors = whole("sd1")
    tensors["cond_stage_model.transformer.text_model.more.weight"] = torch.zeros(2)
    assert "unexpected key" in faults(tensors, base, "kohya")["kohya"]


def test_a_model_of_another_family_is_refused_by_a1111(whole, faults):
    base, _ = whole("sd1")
    _, tensors = whole("sd2")
    assert "family sd2" in faults(tensors, base, "a1111")["a1111"]


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_wrong_order_in_a_fused_attention_shows_against_the_trained_model(family, whole, file):
    base, tensors = whole(family)
    trained = certify([file(tensors, "checkpoint")], base, PROBE, trained=None)
    assert trained.faults() == []
    name = f"{OPEN[family]}transformer.resblocks.0.attn.in_proj_weight"
    wrong = tensors | {name: torch.cat(tensors[name].chunk(3)[::-1])}
    assert answers_differ(base, file, tensors, wrong)


def test_a_projection_that_is_not_transposed_shows_against_the_trained_model(whole, file):
    base, tensors = whole("sdxl")
    name = f"{OPEN['sdxl']}text_projection"
    assert answers_differ(base, file, tensors, tensors | {name: tensors[name].t().contiguous()})


def answers_differ(base, file, right, wrong):
    """Take the right file's effect for the trained model's, and certify the wrong one."""
    from sdtune.formats.consumers.applying import applied, view_of
    from sdtune.formats.consumers.definition import read

    with applied(base, [read(file(right, "checkpoint"), view_of(base), base)]):
        trained = ask(base, PROBE)
    made = certify([file(wrong, "checkpoint")], base, PROBE, trained=trained)
    return {row.consumer for row, _ in made.faults()} >= {"a1111", "forge", "comfyui", "diffusers"}


@pytest.fixture(scope="module")
def open_v(tmp_path_factory):
    """Open a family's tiny model as one that predicts v, and give its file's tensors."""
    folder = tmp_path_factory.mktemp("v")

    def open_v(family, zero_snr=False):
        path = tiny_model(folder / f"{family}.safetensors", family, depths=SHALLOW.get(family))
        options = ModelOptions(path=str(path), prediction="v_prediction", zero_terminal_snr=zero_snr)
        base = open_model(options, dtype=torch.float32, device=torch.device("cpu"), registry=Registry.from_plugins([]))
        for part in PROBE.parts:
            base.load(part)
        return base, base.webui_state_dict()

    return open_v


def certified(path, base):
    return certify([open_file(path, "checkpoint")], base, PROBE, trained=None)


@pytest.mark.parametrize(("family", "is_natural"), [("sd1", True), ("sd2", True), ("sdxl", False)])
def test_v_without_a_yaml_or_a_mark_is_a_mistake(family, is_natural, open_v, tmp_path):
    base, tensors = open_v(family)
    marks = {"v_pred", "ztsnr"}
    save_file({name: tensor for name, tensor in tensors.items() if name not in marks}, tmp_path / "m.safetensors")
    rows = {row.consumer: row for row in certified(tmp_path / "m.safetensors", base).rows}
    assert "samples a model of v as one of noise" in rows["a1111"].fault(is_chosen=False)
    assert "samples a model of v as one of noise" in rows["forge"].fault(is_chosen=False)
    assert rows["comfyui"].is_natural == is_natural
    assert "samples a model of v as one of noise" in rows["comfyui"].fault(is_chosen=True)
    assert rows["diffusers"].fault(is_chosen=True) == ""
    assert "--v_parameterization" in rows["kohya"].predicts


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_yaml_and_the_marks_that_are_written_tell_v(family, open_v, tmp_path):
    base, tensors = open_v(family)
    save_file(tensors, tmp_path / "m.safetensors")
    for suffix, content in base.webui_sidecars().items():
        (tmp_path / f"m{suffix}").write_bytes(content)
    made = certified(tmp_path / "m.safetensors", base)
    assert made.faults() == []
    predicts = {row.consumer: row.predicts for row in made.rows}
    assert predicts["a1111"] == predicts["forge"] == "v (m.yaml)"
    assert predicts["comfyui"].startswith("v (tensor v_pred" if family == "sdxl" else "noise (")


def test_pure_noise_at_the_end_without_its_mark_is_a_mistake(open_v, tmp_path):
    base, tensors = open_v("sdxl", zero_snr=True)
    assert "ztsnr" in tensors
    del tensors["ztsnr"]
    save_file(tensors, tmp_path / "m.safetensors")
    rows = {row.consumer: row for row in certified(tmp_path / "m.safetensors", base).rows}
    for consumer in ("comfyui", "forge"):
        assert rows[consumer].fault(is_chosen=False) == "its schedule does not end in pure noise"


def test_comfyui_takes_a_telling_bias_of_sd2_for_v(open_v, tmp_path):
    base, tensors = open_v("sd2")
    name = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
    spread = torch.ones_like(tensors[name]) * 0.12
    spread[::2] *= -1
    save_file(tensors | {name: spread}, tmp_path / "m.safetensors")
    predicts = {row.consumer: row.predicts for row in certified(tmp_path / "m.safetensors", base).rows}
    assert predicts["comfyui"] == "v (a bias spreads by 0.120)"
    assert predicts["forge"] == "noise (there is no m.yaml)"  # it looks for the bias under another name


def test_comfyui_tells_the_family_by_the_form_of_the_unet(whole, faults):
    base, _ = whole("sd1")
    _, tensors = whole("sdxl")
    found = faults(tensors, base, "comfyui", "forge")
    assert "family sdxl" in found["comfyui"]
    assert "family sdxl" in found["forge"]


SCALING = "model: {params: {denoiser_config: {params: {scaling_config: {target: sgm.denoiser_scaling.%s}}}}}"
YAMLS = {
    "no yaml": ("sdxl", None, True, "v (tensor v_pred)"),
    "neither": ("sdxl", None, False, "noise (no tensor v_pred)"),
    "scaling": ("sdxl", SCALING % "VScaling", False, "v (m.yaml)"),
    "scaling of noise, which loses to the mark": ("sdxl", SCALING % "EpsScaling", True, "v (tensor v_pred)"),
    "parameterization": ("sd1", 'model: {params: {parameterization: "v"}}', False, "v (m.yaml)"),
    "parameterization of noise": ("sd1", "model: {params: {parameterization: eps}}", False, "noise (m.yaml does"),
    "something else": ("sd1", "- v\n- VScaling", False, "noise (m.yaml does not say v)"),
    "a mark that is SDXL's": ("sd1", None, True, "noise (there is no m.yaml)"),
    "no YAML at all": ("sd1", "model: [v", False, "refused: the .yaml beside it cannot be read"),
}


@pytest.mark.parametrize("case", YAMLS)
def test_forge_follows_a_yaml_that_says_v_and_then_the_mark(case, whole, tmp_path):
    from sdtune.formats.consumers.applying import view_of
    from sdtune.formats.consumers.forge import read

    family, text, is_marked, expected = YAMLS[case]
    base, tensors = whole(family)
    if is_marked:
        tensors["v_pred"] = torch.zeros(0)
    if text:
        (tmp_path / "m.yaml").write_text(text)
    reading = read(File(path=tmp_path / "m.safetensors", kind="checkpoint", tensors=tensors), view_of(base), base)
    assert f"refused: {reading.refused}".startswith(expected) or reading.predicts.startswith(expected)
