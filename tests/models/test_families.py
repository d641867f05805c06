"""SD2 and SDXL beside diffusers' own pipelines, and both file layouts beside each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from sdtune.config.model import ModelOptions
from sdtune.errors import ModelError
from sdtune.models.base import Conditioning
from sdtune.testing.models import open_tiny
from sdtune.testing.tiny import tiny_model

CAPTIONS = ["a photo of a red cat", "star"]
FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {
        (family, layout): tiny_model(root / family / name, family)
        for family in FAMILIES
        for layout, name in (("file", "m.safetensors"), ("folder", "m"))
    }


def latents(batch=2):
    return torch.randn(batch, 4, 8, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answer(model):
    return model.denoise(latents(), torch.tensor([10, 900]), model.encode_prompt(CAPTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_of_a_family_give_one_answer(paths, family):
    file, folder = (answer(open_tiny(paths[family, layout], family)) for layout in ("file", "folder"))
    assert torch.equal(file, folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_comes_back_as_it_was(paths, family):
    written = open_tiny(paths[family, "file"], family).webui_state_dict()
    stored = load_file(paths[family, "file"])
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_becomes_the_single_file_of_the_same_weights(paths, family):
    written = open_tiny(paths[family, "folder"], family, parts=()).webui_state_dict()
    stored = load_file(paths[family, "file"])
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in stored.items())


@pytest.mark.slow
@torch.no_grad()
def test_sd2_is_read_as_diffusers_reads_it(paths):
    from diffusers import StableDiffusionPipeline

    model = open_tiny(paths["sd2", "file"], "sd2")
    pipeline = StableDiffusionPipeline.from_pretrained(paths["sd2", "folder"], dtype=torch.float32)
    tokens = pipeline.tokenizer(CAPTIONS, padding="max_length", return_tensors="pt").input_ids
    hidden = pipeline.text_encoder(tokens)[0]
    assert torch.equal(model.encode_prompt(CAPTIONS).hidden, hidden)
    theirs = pipeline.unet(latents(), torch.tensor([10, 900]), hidden).sample
    torch.testing.assert_close(
        answer(model), theirs, rtol=0, atol=1e-5
    )  # weights at other addresses, other last digits


@pytest.mark.slow
@torch.no_grad()
def test_sdxl_is_read_as_diffusers_reads_it(paths):
    from diffusers import StableDiffusionXLPipeline

    model = open_tiny(paths["sdxl", "file"], "sdxl")
    pipeline = StableDiffusionXLPipeline.from_pretrained(paths["sdxl", "folder"], dtype=torch.float32)
    hidden, _, pooled, _ = pipeline.encode_prompt(CAPTIONS, do_classifier_free_guidance=False)
    ours = model.encode_prompt(CAPTIONS)
    assert torch.equal(ours.hidden, hidden)
    torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-6)

    sizes = torch.tensor([[200, 300, 4, 8, 64, 128]]).expand(2, -1)
    own = Conditioning(hidden=hidden, pooled=pooled, time_ids=sizes)
    added = {"text_embeds": pooled, "time_ids": sizes}
    theirs = pipeline.unet(latents(), torch.tensor([10, 900]), hidden, added_cond_kwargs=added).sample
    torch.testing.assert_close(model.denoise(latents(), torch.tensor([10, 900]), own), theirs, rtol=0, atol=1e-5)
    assert not torch.equal(answer(model), theirs)


def test_a_word_of_ones_own_does_not_move_the_pooled_text_to_itself(paths):
    model = open_tiny(paths["sdxl", "file"], "sdxl")
    vectors = model.embed_tokens("cat")
    before = model.encode_prompt(["a cat"])
    model.set_embeddings({"dog": vectors})
    after = model.encode_prompt(["a dog"])
    assert torch.equal(after.hidden, before.hidden)
    assert torch.equal(after.pooled, before.pooled)


def reading(model, **options):
    model.source = replace(model.source, options=ModelOptions(**options))
    return model


@torch.no_grad()
def test_pooled_text_is_that_of_the_first_piece_and_has_no_weights(paths):
    model = reading(open_tiny(paths["sdxl", "file"], "sdxl"), chunks=2, weighted_words=True)
    found = model.encode_prompt(["a (cat:1.5) BREAK a dog"])
    plain = model.encode_prompt(["a cat", "a dog"])
    torch.testing.assert_close(found.pooled, plain.pooled[:1])
    torch.testing.assert_close(found.hidden[0, 77:], plain.hidden[1])
    assert not torch.allclose(found.hidden[0, :77], plain.hidden[0])


@torch.no_grad()
def test_each_text_encoders_mean_is_restored_by_itself(paths):
    model = reading(open_tiny(paths["sdxl", "file"], "sdxl"), weighted_words=True)
    found, plain = model.encode_prompt(["a (red:1.5) dog"]).hidden[0], model.encode_prompt(["a red dog"]).hidden[0]
    width = model.embed_tokens("a")["clip_l"].shape[1]
    for own, before in ((found[:, :width], plain[:, :width]), (found[:, width:], plain[:, width:])):
        scaled = before.clone()
        scaled[2] *= 1.5
        torch.testing.assert_close(own, scaled * before.mean() / scaled.mean(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_captions_of_unlike_length_are_answered_as_if_alone(paths, family):
    model = reading(open_tiny(paths[family, "file"], family), chunks=2)
    captions, steps = ["a dog", "a red cat, " * 30], torch.tensor([10, 900])
    cond = model.encode_prompt(captions)
    together = model.denoise(latents(), steps, cond)
    alone = [model.denoise(latents()[[i]], steps[[i]], model.encode_prompt([captions[i]])) for i in range(2)]
    assert cond.mask.sum(1).tolist() == [77, 154]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-4)


def test_unlike_numbers_of_vectors_for_two_text_encoders_are_refused(paths):
    model = open_tiny(paths["sdxl", "file"], "sdxl", parts=("text_encoder",))
    vectors = model.embed_tokens("red cat")
    with pytest.raises(ModelError, match="unlike numbers of vectors"):
        model.set_embeddings({"zwx": {**vectors, "clip_g": vectors["clip_g"][:1]}})


@pytest.mark.parametrize(("family", "clip_skip"), [("sd2", 1), ("sdxl", 3)])
def test_a_layer_that_is_not_there_or_never_used_is_refused(paths, family, clip_skip):
    from sdtune.config.model import ModelOptions
    from sdtune.errors import ModelError
    from sdtune.models.architecture import FAMILIES as DATA
    from sdtune.models.base import ModelSource
    from sdtune.models.sd import StableDiffusion

    source = ModelSource(
        path=paths[family, "file"],
        name="m",
        dtype=torch.float32,
        device=torch.device("cpu"),
        options=ModelOptions(clip_skip=clip_skip),
    )
    with pytest.raises(ModelError, match=f"clip_skip is {clip_skip}"):
        StableDiffusion(source, DATA[family])
