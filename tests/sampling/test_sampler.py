from dataclasses import replace

import numpy as np
import pytest
import torch

from sdtune.data.types import Size
from sdtune.errors import ConfigError, NumericsError
from sdtune.randomness import derive_generator
from sdtune.sampling.request import PictureRequest
from sdtune.sampling.sampler import encode_prompts, sample, sample_latents
from sdtune.sampling.schedulers import make_scheduler

REQUEST = PictureRequest(prompt="a dog", negative="no", seed=5, size=Size(64, 48), steps=4, cfg=3.0)
LARGE = PictureRequest(prompt="x" * 20, seed=1, size=Size(512, 512), steps=60, cfg=1.0)
SAMPLERS = ["dpmpp_2m_karras", "euler_a", "ddim"]


def draw_latents(model, request):
    return sample_latents(model, request, encode_prompts(model, [request]))


def pixels(image):
    return np.asarray(image).tolist()


def flow(model, mean, start):
    """Exact mean and std where the probability flow (Song et al. 2021) takes pure noise at the timestep `start`.

    Stable Diffusion's last timestep still holds a little signal, so noise without any ends a little short of the mean.
    """
    alpha, sigma = (value.item() for value in model.alpha_sigma(torch.tensor([start])))
    shrink = model.std / (alpha**2 * model.std**2 + sigma**2) ** 0.5
    return mean * (1 - alpha * shrink), shrink


@pytest.mark.parametrize(("sampler", "start"), [("dpmpp_2m_karras", 999), ("ddim", 945)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_deterministic_samplers_follow_the_probability_flow(make_model, sampler, start, prediction):
    model = make_model("gaussian", prediction=prediction)
    mean, std = flow(model, 2.0, start)
    latents = draw_latents(model, replace(LARGE, sampler=sampler))
    assert latents.mean().item() == pytest.approx(mean, abs=0.01)  # 16,384 draws: standard error 0.004
    assert latents.std().item() == pytest.approx(std, abs=0.03)  # 60 steps: DDIM is of first order


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ancestral_sampler_draws_from_the_distribution_of_the_data(make_model, prediction):
    latents = draw_latents(make_model("gaussian", prediction=prediction), replace(LARGE, sampler="euler_a"))
    assert latents.mean().item() == pytest.approx(2.0, abs=0.02)
    assert latents.std().item() == pytest.approx(0.5, abs=0.06)  # 60 steps of first order; 0.02 with 200


def test_guidance_goes_beyond_the_prompt_away_from_the_negative(make_model):
    model = make_model("gaussian")
    guided = draw_latents(model, replace(LARGE, negative="x" * 10, cfg=2.0))
    assert guided.mean().item() == pytest.approx(flow(model, 3.0, 999)[0], abs=0.01)


def test_guidance_of_equal_texts_changes_nothing(make_model):
    plain = draw_latents(make_model("gaussian"), LARGE)
    guided = draw_latents(make_model("gaussian"), replace(LARGE, negative=LARGE.prompt, cfg=7.0))
    torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


def test_ddim_equals_a_loop_written_from_the_paper(make_model):
    # Song et al. 2021, equation 12 with sigma = 0, on the timesteps 1, 251, 501, 751.
    model = make_model("toy").eval()
    x_t = torch.randn(1, 4, 6, 8, generator=derive_generator(5, "picture"))
    condition, negative = (model.encode_prompt([text]) for text in ("a dog", "no"))
    for timestep, before in [(751, 501), (501, 251), (251, 1), (1, 0)]:
        t = torch.tensor([timestep])
        wanted, without = model.denoise(x_t, t, condition), model.denoise(x_t, t, negative)
        eps = without + 3.0 * (wanted - without)
        (alpha, sigma), (alpha_before, sigma_before) = model.alpha_sigma(t), model.alpha_sigma(torch.tensor([before]))
        x_t = alpha_before * (x_t - sigma * eps) / alpha + sigma_before * eps
    torch.testing.assert_close(draw_latents(model, replace(REQUEST, sampler="ddim")), x_t, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dpmpp_2m_karras", "ddim"])
def test_pictures_equal_those_of_the_diffusers_pipeline(open_tiny, sampler):
    from diffusers import StableDiffusionPipeline

    model, request = open_tiny(), replace(REQUEST, sampler=sampler)
    ours = sample(model, [request])[0]
    for part in ("unet", "vae", "text_encoder"):
        model.load(part)
    pipeline = StableDiffusionPipeline(
        **{part: model.part(part) for part in ("unet", "vae", "text_encoder")},
        tokenizer=model.tokenizer,
        scheduler=make_scheduler(sampler, model.schedule, model.prediction, request.steps),
        **dict.fromkeys(("safety_checker", "feature_extractor")),
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        prompt=request.prompt,
        negative_prompt=request.negative,
        latents=torch.randn(1, 4, 6, 8, generator=derive_generator(request.seed, "picture")),
        height=48,
        width=64,
        num_inference_steps=request.steps,
        guidance_scale=request.cfg,
    ).images[0]
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1  # rounding of the last bit


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_requests_give_equal_pictures_whatever_else_is_drawn(toy, sampler):
    request = replace(REQUEST, sampler=sampler)
    alone = sample(toy, [request])[0]
    among = sample(toy, [replace(request, seed=9), request, replace(request, prompt="cat")])
    assert pixels(among[1]) == pixels(alone)
    assert pixels(among[0]) != pixels(alone)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_global_random_state_is_left_alone(toy, sampler):
    before = torch.get_rng_state()
    sample(toy, [replace(REQUEST, sampler=sampler)])
    assert torch.equal(torch.get_rng_state(), before)


def test_picture_has_the_size_asked_for(toy):
    image = sample(toy, [REQUEST])[0]
    assert (image.size, image.mode) == ((64, 48), "RGB")


def test_dropout_is_off_while_drawing_and_on_again_after(toy):
    toy.train()
    toy.part("unet")[1].eval()
    drawn = sample(toy, [REQUEST])[0]
    assert [module.training for module in toy.part("unet").modules()] == [True, True, False]
    assert pixels(drawn) == pixels(sample(toy.eval(), [REQUEST])[0])


def test_modes_come_back_after_an_error(toy):
    toy.train()
    with pytest.raises(KeyError):
        sample(toy, [REQUEST], conditionings={})
    assert toy.part("unet").training


def test_missing_parts_are_borrowed_and_given_back(make_model):
    model = make_model("toy", loaded=("unet",))
    sample(model, [REQUEST])
    loads = [entry for entry in model.log if "load" in entry]
    assert loads == ["load text_encoder", "unload text_encoder", "load vae", "unload vae"]
    assert model.is_loaded("unet")


def test_precomputed_conditionings_need_no_text_encoder(toy):
    conditionings = encode_prompts(toy, [REQUEST])
    expected = sample(toy, [REQUEST])[0]
    toy.unload("text_encoder")
    assert pixels(sample(toy, [REQUEST], conditionings=conditionings)[0]) == pixels(expected)
    assert "load text_encoder" not in toy.log


def test_each_text_is_encoded_once(toy):
    encode_prompts(toy, [REQUEST, REQUEST, replace(REQUEST, prompt="cat")])
    assert toy.log == ["encode ['no']", "encode ['a dog']", "encode ['cat']"]


@pytest.mark.parametrize(("cfg", "batch"), [(1.0, 1), (3.0, 2)])
def test_guidance_is_one_batched_forward_a_step(toy, cfg, batch):
    draw_latents(toy, replace(REQUEST, cfg=cfg))
    assert [entry for entry in toy.log if entry.startswith("denoise")] == [f"denoise {batch}"] * 4


def test_nothing_drawn_requires_gradients(toy):
    toy.held["unet"] = torch.nn.Conv2d(4, 4, 1)
    assert not draw_latents(toy, REQUEST).requires_grad


@pytest.mark.slow
def test_model_in_bf16_draws(open_tiny):
    assert sample(open_tiny(torch.bfloat16), [replace(REQUEST, steps=1)])[0].size == (64, 48)


def test_impossible_sizes_are_reported_together(toy):
    requests = [replace(REQUEST, size=Size(60, 64)), REQUEST, replace(REQUEST, size=Size(64, 0))]
    with pytest.raises(ConfigError, match="60x64 px; sides are multiples of 8") as caught:
        sample(toy, requests)
    assert len(caught.value.problems) == 2


def test_picture_of_nan_is_told(toy):
    toy.held["unet"] = torch.nn.Conv2d(4, 4, 1)
    torch.nn.init.constant_(toy.held["unet"].weight, float("nan"))
    with pytest.raises(NumericsError, match="'a dog' came out as NaN"):
        sample(toy, [REQUEST])
