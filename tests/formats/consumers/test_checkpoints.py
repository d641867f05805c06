"""Whole models: good ones are read by all, and one wrong tensor is found by the program that trips over it."""

import re

import pytest
import torch

from sdtune.export.certificate import certify
from sdtune.export.probe import Probe, ask

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
    made.raise_if_faulty()
    assert made.effect > 0.01
    assert [row.consumer for row in made.rows] == ["a1111", "comfyui", "kohya", "diffusers"]
    assert max(row.error for row in made.rows) < 1e-4  # diffusers' own are not contiguous, so sums run otherwise
    assert all(torch.equal(before[name], answer) for name, answer in ask(base, PROBE).items())


@pytest.mark.parametrize("consumer", ["a1111", "comfyui"])
def test_a_flat_attention_in_the_vae_is_refused(consumer, whole, faults):
    base, tensors = whole("sd1")
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    found = faults(tensors | {name: tensors[name].flatten(1)}, base, consumer)
    assert re.search("refused: its shape is wrong: first_stage_model.encoder.mid.attn_1.q", found[consumer])


def test_a_flat_attention_in_the_vae_is_taken_by_strict_scripts(whole, faults):
    base, tensors = whole("sd1")
    name = "first_stage_model.encoder.mid.attn_1.q.weight"
    assert faults(tensors | {name: tensors[name].flatten(1)}, base, "kohya", "diffusers") == {}


@pytest.mark.parametrize("consumer", ["a1111", "comfyui", "kohya", "diffusers"])
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
    return {row.consumer for row, _ in made.faults()} >= {"a1111", "comfyui", "diffusers"}
