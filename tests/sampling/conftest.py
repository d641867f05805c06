"""Models whose answer is known, and a tiny Stable Diffusion."""

from pathlib import Path

import pytest
import torch
from torch import nn

from sdtune.diffusion.schedule import NoiseSchedule
from sdtune.models.base import Conditioning, DiffusionModel, ModelSource
from sdtune.models.sd import StableDiffusion1
from sdtune.testing.tiny import tiny_sd1


class ToyModel(DiffusionModel):
    """The parts a sampler needs; text is encoded by its length."""

    def __init__(self, *, prediction="epsilon", loaded=("unet", "vae", "text_encoder"), dtype=torch.float32):
        super().__init__()
        self.source = ModelSource(path=Path("toy"), name="toy", dtype=dtype, device=torch.device("cpu"))
        self.family, self.prediction = "toy", prediction
        self.schedule = NoiseSchedule.scaled_linear()
        self.latent_channels, self.latent_factor, self.native_px = 4, 8, 64
        self.clip_skip = 1
        self.held = nn.ModuleDict({part: self.build(part) for part in loaded})
        self.log = []

    def build(self, part):
        return nn.Sequential(nn.Dropout(0.5), nn.Identity())

    def load(self, part):
        if part not in self.held:
            self.log.append(f"load {part}")
            self.held[part] = self.build(part)

    def unload(self, part):
        self.log.append(f"unload {part}")
        del self.held[part]

    def is_loaded(self, part):
        return part in self.held

    def part(self, part):
        return self.held[part]

    def encode_prompt(self, captions):
        self.log.append(f"encode {list(captions)}")
        self.part("text_encoder")
        lengths = torch.tensor([float(len(caption)) for caption in captions])
        return Conditioning(hidden=lengths[:, None, None].expand(-1, 3, 8))

    def decode_latents(self, latents):
        self.part("vae")
        return latents[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)

    def alpha_sigma(self, timesteps):
        alpha_bar = self.schedule.alpha_bar[timesteps][:, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def denoise(self, x_t, timesteps, cond):
        self.log.append(f"denoise {x_t.shape[0]}")
        assert timesteps.dtype == torch.int64
        return self.part("unet")(torch.tanh(x_t) * cond.hidden.mean((1, 2))[:, None, None, None] / 10)

    def part_digest(self, part):
        raise NotImplementedError

    encode_images = text_digest = count_tokens = count_cut = targets = layers = replace = webui_key = part_digest
    webui_state_dict = enable_gradient_checkpointing = part_digest
    unfreeze = embed_tokens = set_embeddings = webui_metadata = diffusers_files = part_digest


class GaussianModel(ToyModel):
    """Data is N(mean, 0.5 squared) in every element, the mean being the length of the prompt over 10: exact answers."""

    std = 0.5

    def denoise(self, x_t, timesteps, cond):
        alpha, sigma = self.alpha_sigma(timesteps)
        mean = cond.hidden.mean((1, 2))[:, None, None, None] / 10
        eps = sigma * (x_t - alpha * mean) / (alpha**2 * self.std**2 + sigma**2)
        x_0 = (x_t - sigma * eps) / alpha
        return {"epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "sample": x_0}[self.prediction]


@pytest.fixture
def make_model():
    kinds = {"toy": ToyModel, "gaussian": GaussianModel}
    return lambda kind, **options: kinds[kind](**options)


@pytest.fixture
def toy():
    return ToyModel()


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def open_tiny(tiny_path):
    def opened(dtype=torch.float32):
        source = ModelSource(path=tiny_path, name="tiny", dtype=dtype, device=torch.device("cpu"))
        return StableDiffusion1(source)

    return opened
