"""The shipped model loads as Stable Diffusion 1.5 does and draws what it is asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from sdtune.demo.evaluate import MODEL, Sampling, generate, held_out_prompts, load_pipeline
from sdtune.demo.judge import as_pixels, classify, load_judge
from sdtune.demo.scenes import draw_scene, is_held_out, sample_scene

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    return load_pipeline()


def test_the_model_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 40_000_000


def test_the_text_encoder_loads_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CLIPTextModel.from_pretrained(MODEL / "text_encoder")
    assert caplog.records == []


def test_the_topology_is_that_of_stable_diffusion_1(pipeline: StableDiffusionPipeline) -> None:
    unet, text, vae = pipeline.unet.config, pipeline.text_encoder.config, pipeline.vae.config
    assert list(unet.down_block_types) == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert (unet.layers_per_block, unet.use_linear_projection, unet.in_channels) == (2, False, 4)
    assert (text.num_hidden_layers, text.max_position_embeddings, text.hidden_act) == (12, 77, "quick_gelu")
    assert (len(vae.block_out_channels), vae.layers_per_block, vae.latent_channels) == (4, 2, 4)


def test_unknown_words_become_known_tokens() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    ids = tokenizer("zwx Überraschung 日本").input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer("a red circle", padding="max_length").input_ids.count(tokenizer.eos_token_id) == 77 - 4


def test_the_vae_keeps_what_the_judge_sees(pipeline: StableDiffusionPipeline) -> None:
    pictures = [draw_scene(sample_scene(4711, index, "all")) for index in range(40)]
    with torch.no_grad():
        latents = pipeline.vae.encode(as_pixels(pictures)).latent_dist.mean
        decoded = pipeline.image_processor.postprocess(pipeline.vae.decode(latents).sample)
    judge = load_judge()
    pairs = list(zip(classify(judge, pictures), classify(judge, decoded), strict=True))
    assert sum(a.shape == b.shape and a.colour == b.colour for a, b in pairs) >= 36


def test_every_examination_prompt_is_held_out() -> None:
    prompts = held_out_prompts(200)
    assert len({p.text for p in prompts}) > 190
    assert all(is_held_out(p.scene.shape, p.scene.colour, p.scene.background) for p in prompts)


def test_the_model_draws_what_it_is_asked_for(pipeline: StableDiffusionPipeline) -> None:
    asked = [("red", "circle"), ("blue", "star"), ("yellow", "heart"), ("green", "square")]
    texts = [f"a {colour} {shape} on a white background" for colour, shape in asked]
    verdicts = classify(load_judge(), generate(pipeline, texts, Sampling(steps=12)))
    assert [(v.colour, v.shape) for v in verdicts] == asked
