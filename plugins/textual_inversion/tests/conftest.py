import pytest
import torch

from sdtune.api import Embedding
from sdtune.testing.models import open_tiny_sd1


@pytest.fixture(scope="session")
def model_path(tmp_path_factory):
    return tmp_path_factory.mktemp("model") / "tiny"


@pytest.fixture
def make_model(model_path):
    """Open the same tiny SD1 as often as called."""
    return lambda: open_tiny_sd1(model_path, text_layers=2)


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def embedding():
    vectors = torch.randn(3, 64, generator=torch.Generator().manual_seed(5))
    return Embedding(name="newt", vectors={"clip_l": vectors}, step=12, base_hash="0123456789", base_name="tiny")


@pytest.fixture
def wide_embedding():
    """One for SDXL's two text encoders."""
    draws = torch.Generator().manual_seed(6)
    vectors = {"clip_l": torch.randn(2, 768, generator=draws), "clip_g": torch.randn(2, 1280, generator=draws)}
    return Embedding(name="newt", vectors=vectors, step=12)


@pytest.fixture
def same():
    """Tell whether two embeddings have the same vectors, to the last bit."""

    def same(one, other):
        keys = one.vectors.keys()
        return keys == other.vectors.keys() and all(torch.equal(one.vectors[key], other.vectors[key]) for key in keys)

    return same
