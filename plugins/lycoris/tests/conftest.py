import pytest
import torch

from sdtune.testing.models import open_tiny_sd1


@pytest.fixture(scope="session")
def model_path(tmp_path_factory):
    return tmp_path_factory.mktemp("model") / "tiny.safetensors"


@pytest.fixture
def make_model(model_path):
    """Open the same tiny SD1 as often as called."""
    return lambda: open_tiny_sd1(model_path)


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def predict():
    """Give a model's prediction for fixed latents and captions."""
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def predict(model):
        return model.denoise(latents, torch.tensor([10, 900]), model.encode_prompt(["a zwx dog", "red circle"]))

    return predict
