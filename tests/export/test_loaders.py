"""An exported file, read by somebody else's loader, acts as trained."""

import pytest
import torch
from safetensors import safe_open

import sdtune_lora
from sdtune.models.open import demo_folder
from sdtune.testing.images import write_images
from sdtune.testing.runner import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_images(folder / "images", 2)
    return train(
        [sdtune_lora],
        *("method=lora", "model.path=demo", f"data.path={folder / 'images'}", f"output.dir={folder / 'out'}"),
        *("output.name=thing", "train.steps=3", "train.lr=3e-2", "data.cache.latents=ram", "save.dtype=fp32"),
        *("lora.rank=4", "lora.alpha=2", "lora.conv_rank=2", "lora.text_encoder=true", "log.tensorboard=false"),
    )


@torch.no_grad()
def answer(unet, text_encoder, tokenizer):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    tokens = tokenizer("a red circle", padding="max_length", return_tensors="pt").input_ids
    return unet(latents, torch.tensor([400]), text_encoder(tokens)[0]).sample


@pytest.mark.slow
def test_diffusers_uses_every_key_and_gives_the_trained_answer(trained):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        demo_folder(), dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    before = answer(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer)
    path = trained.folder.exports / "thing.safetensors"
    pipeline.load_lora_weights(path)
    loaded = answer(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer)

    trained.model.eval()
    ours = answer(trained.model.part("unet"), trained.model.part("text_encoder"), trained.model.tokenizer)
    torch.testing.assert_close(loaded, ours, rtol=1e-4, atol=1e-4)
    assert (loaded - before).abs().max() > 0.01

    with safe_open(path, "pt") as file:
        modules = {name.split(".")[0] for name in file.keys()}  # noqa: SIM118  # no mapping
    adapted = [name for name, _ in pipeline.unet.named_modules() if name.endswith("lora_A")]
    assert len(modules) == 278 + 72
    assert len(adapted) == 278
