"""Guidance with a prompt and a negative prompt of different length."""

import pytest
import torch

from sdtune.config.model import ModelOptions
from sdtune.data.types import Size
from sdtune.models.architecture import FAMILIES
from sdtune.models.base import ModelSource
from sdtune.models.sd import StableDiffusion
from sdtune.sampling.request import PictureRequest
from sdtune.sampling.sampler import encode_prompts, sample_latents
from sdtune.testing.tiny import SHALLOW, tiny_model

LONG = ", ".join(["a photo of a cat"] * 30)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def model(request, tmp_path_factory):
    path = tiny_model(tmp_path_factory.mktemp("tiny") / "model", request.param, depths=SHALLOW.get(request.param))
    source = ModelSource(
        path=path,
        name="model",
        dtype=torch.float64,
        device=torch.device("cpu"),
        options=ModelOptions(path=str(path), chunks=4),
    )
    model = StableDiffusion(source, FAMILIES[request.param])
    model.load("unet")
    return model


class Apart:
    """The model, denoising one sample at a time, without a mask."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def denoise(self, x_t, timesteps, cond):
        answers = []
        for place, length in enumerate(cond.mask.sum(1)):
            pooled = None if cond.pooled is None else cond.pooled[place, None]
            own = type(cond)(hidden=cond.hidden[place, None, :length], pooled=pooled)
            answers.append(self.model.denoise(x_t[place, None], timesteps[place, None], own))
        return torch.cat(answers)


@pytest.mark.parametrize(("prompt", "negative"), [("a dog", LONG), (LONG, "a dog")])
def test_guidance_is_that_of_both_prompts_apart(model, prompt, negative):
    request = PictureRequest(prompt=prompt, negative=negative, seed=5, size=Size(64, 64), steps=3, cfg=3.0)
    texts = encode_prompts(model, [request])
    together = sample_latents(model, request, texts)
    torch.testing.assert_close(together, sample_latents(Apart(model), request, texts), rtol=1e-5, atol=1e-5)
