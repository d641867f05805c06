"""A model lends what is still the base in it, and is afterwards what it was, to the same objects."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sdtune.adapters import Wrapper
from sdtune.models.sd import StableDiffusion1, StableDiffusionXL
from sdtune.models.untouched import Loaded, lending
from sdtune.testing.models import open_tiny

PARTS = ("unet", "text_encoder", "vae")
CLASSES = {"sd1": StableDiffusion1, "sdxl": StableDiffusionXL}


class Doubled(Wrapper):
    def forward(self, x):
        return 2 * self.base(x)


class Borrower(nn.Module):
    def dtype_of(self, part):
        return torch.float32


@pytest.fixture
def unet():
    blocks = [nn.Sequential(nn.Linear(2, 3), nn.SiLU()), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))]
    return nn.Sequential(*blocks).requires_grad_(False).eval()


@pytest.fixture
def loaded(unet):
    """Give the UNet as it is in its file."""
    weights = {name: weight.clone() for name, weight in unet.state_dict().items()}
    return Loaded(unet, SimpleNamespace(entries=weights, read=lambda name, dtype: weights[name].to(dtype)))


def state(model):
    modules = [(name, id(module), module.training) for name, module in model.named_modules()]
    return modules, [(name, id(own), own._version, own.requires_grad) for name, own in model.named_parameters()]


def is_lent(unet, loaded):
    """Tell whether it is lent, and check that all is as before."""
    before, borrower = state(unet), Borrower()
    with lending({"unet": ["unet"]}, {"unet": loaded}, borrower, []):
        found = "unet" in dict(borrower.named_children())
    assert state(unet) == before
    assert list(borrower.children()) == []
    return found


def test_a_frozen_part_is_lent_without_its_adapters(unet, loaded):
    x, wanted = torch.ones(1, 2), unet(torch.ones(1, 2))
    unet[0][0] = Doubled(unet[0][0])
    unet[1] = nn.Sequential(unet[1], Doubled(unet[1][1]))  # a block, and a layer inside it
    trained, borrower = unet[0](x), Borrower()
    with lending({"unet": ["unet"]}, {"unet": loaded}, borrower, []):
        assert borrower.unet(x).equal(wanted)
    assert unet[0](x).equal(trained)
    assert is_lent(unet, loaded)


def train(unet):
    unet[1][0].bias.requires_grad_(True)


def write(unet):
    unet[1][0].weight.data[0, 0] += 1e-6


def hook(unet):
    unet[1][0].register_forward_hook(lambda module, args, output: 2 * output)


def patch(unet):
    unet[1][0].forward = lambda x: x


def parametrize(unet):
    nn.utils.parametrizations.weight_norm(unet[1][0])
    unet.requires_grad_(False)


def add(unet):
    unet[1].append(nn.SiLU())


def widen(unet):
    unet.double()


def lose(unet):
    gone = weakref.ref(unet[1][0])
    unet[1][0] = nn.Identity()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("change", [train, write, hook, patch, parametrize, add, widen, lose], ids=lambda c: c.__name__)
def test_a_part_that_is_not_the_base_is_not_lent(unet, loaded, change):
    assert is_lent(unet, loaded)
    change(unet)
    assert not is_lent(unet, loaded)


def test_what_a_borrower_leaves_behind_is_taken_out(unet, loaded):
    borrower, before = Borrower(), state(unet)
    with lending({"unet": ["unet"]}, {"unet": loaded}, borrower, []):
        borrower.unet[0][0] = Doubled(borrower.unet[0][0])
    assert state(unet) == before


def test_a_failure_inside_leaves_the_model_as_it_was(unet, loaded):
    unet[0][0] = Doubled(unet[0][0])
    before = state(unet)
    with pytest.raises(ZeroDivisionError), lending({"unet": ["unet"]}, {"unet": loaded}, Borrower(), []):
        raise ZeroDivisionError
    assert state(unet) == before


@torch.no_grad()
def answer(model, text="a photo of zwx"):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.denoise(latents, torch.tensor([500]), model.encode_prompt([text]))


@pytest.mark.slow
@pytest.mark.parametrize("family", CLASSES)
def test_a_model_with_adapters_and_words_lends_the_base(family, tmp_path):
    model = open_tiny(tmp_path / "tiny.safetensors", family)
    untrained = answer(model)
    own = next(target for target in model.targets(("unet",)) if target.kind == "attention")
    model.replace(own.path, Doubled(own.module))
    widths = {key: vectors.shape[1] for key, vectors in model.embed_tokens("a").items()}
    model.set_embeddings({"zwx": {key: torch.randn(2, width) for key, width in widths.items()}})
    trained, before, other = answer(model), state(model), CLASSES[family](model.source)
    with model.lend(other, PARTS):
        assert [part for part in PARTS if other.is_loaded(part)] == ["unet", "text_encoder"]
        assert answer(other).equal(untrained)
        other.set_embeddings({"zwx": {key: torch.randn(3, width) for key, width in widths.items()}})
        assert not answer(other).equal(untrained)
        other.set_embeddings({})
    assert answer(model).equal(trained)
    assert not trained.equal(untrained)
    assert state(model) == before
    model.unfreeze("unet")
    with model.lend(other, PARTS):
        assert [part for part in PARTS if other.is_loaded(part)] == ["text_encoder"]
