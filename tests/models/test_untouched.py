"""A model lends what is still the base in it, and is afterwards what it was, to the same objects."""

import gc
import weakref
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from sdtune.adapters import Wrapper
from sdtune.models.sd import StableDiffusion1, StableDiffusionXL
from sdtune.testing.models import open_tiny

PARTS = ("unet", "text_encoder", "vae")
LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
CLASSES = {"sd1": StableDiffusion1, "sdxl": StableDiffusionXL}


class Doubled(Wrapper):
    def forward(self, x):
        return 2 * self.base(x)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    open_tiny(path := tmp_path_factory.mktemp("model") / "sd1.safetensors", "sd1", parts=())
    return path


@pytest.fixture
def model(path):
    return open_tiny(path, "sd1")


def layer(model, path=LAYER):
    return model.get_submodule(path)


def lent(model, family="sd1"):
    """Name the parts that are lent, and check that they are the base and that all is as before."""
    other = CLASSES[family](model.source)
    before = [(name, id(module)) for name, module in model.named_modules()]
    parameters = [(name, id(own), own._version, own.requires_grad) for name, own in model.named_parameters()]
    with model.lend(other, PARTS):
        found = [part for part in PARTS if other.is_loaded(part)]
        assert all(own is model.get_parameter(name) for name, own in other.named_parameters())
    assert [name for name, _ in other.named_children()] == []
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert [(n, id(own), own._version, own.requires_grad) for n, own in model.named_parameters()] == parameters
    return found


@torch.no_grad()
def answer(model, text="a photo of zwx"):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.denoise(latents, torch.tensor([500]), model.encode_prompt([text]))


@pytest.mark.parametrize("family", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_adapters_and_words_are_out_while_a_model_is_lent(family, tmp_path):
    model = open_tiny(tmp_path / "tiny.safetensors", family)
    untrained = answer(model)
    own = next(target for target in model.targets(("unet",)) if target.kind == "attention")
    model.replace(own.path, Doubled(own.module))
    widths = {key: vectors.shape[1] for key, vectors in model.embed_tokens("a").items()}
    model.set_embeddings({"zwx": {key: torch.randn(2, width) for key, width in widths.items()}})
    trained, other = answer(model), CLASSES[family](model.source)
    assert not trained.equal(untrained)
    with model.lend(other, PARTS):
        assert answer(other).equal(untrained)
        other.set_embeddings({"zwx": {key: torch.randn(3, width) for key, width in widths.items()}})
        assert not answer(other).equal(untrained)
        other.set_embeddings({})
    assert answer(model).equal(trained)
    assert lent(model, family) == ["unet", "text_encoder"]


def test_a_wrapper_around_a_block_goes_with_all_that_was_put_into_it(model):
    block = "unet.mid_block.attentions.0"
    model.replace(LAYER, Doubled(layer(model)))
    model.replace(block, copy := nn.Sequential(layer(model, block)))
    assert lent(model) == ["unet", "text_encoder"]
    assert layer(model, block) is copy


def unfreeze(model):
    model.unfreeze("unet")


def train_a_bias(model):
    layer(model, "unet.conv_in").bias.requires_grad_(True)


def write_into_a_weight(model):
    layer(model).weight.data[0, 0] += 1e-6


def hook(model):
    layer(model).register_forward_hook(lambda module, args, output: 2 * output)


def patch(model):
    layer(model).forward = lambda x: x


def parametrize(model):
    nn.utils.parametrizations.weight_norm(layer(model))


def add(model):
    layer(model).add_module("more", nn.Linear(2, 2))


def widen(model):
    layer(model).to(torch.float64)


@pytest.mark.parametrize(
    "change",
    [unfreeze, train_a_bias, write_into_a_weight, hook, patch, parametrize, add, widen],
    ids=lambda c: c.__name__,
)
def test_a_part_that_is_not_the_base_is_not_lent(model, change):
    change(model)
    assert lent(model) == ["text_encoder"]


def test_a_part_whose_layers_are_gone_is_not_lent(model):
    gone = weakref.ref(layer(model))
    model.replace(LAYER, nn.Identity())
    gc.collect()
    assert gone() is None
    assert lent(model) == ["text_encoder"]


def test_what_a_borrower_leaves_behind_is_taken_out(model):
    other, own = StableDiffusion1(model.source), layer(model)
    with ExitStack() as stack:
        stack.enter_context(model.lend(other, PARTS))
        other.replace(LAYER, Doubled(own))
    assert layer(model) is own


def test_a_failure_inside_leaves_the_model_as_it_was(model):
    model.replace(LAYER, own := Doubled(layer(model)))
    with pytest.raises(ZeroDivisionError), model.lend(StableDiffusion1(model.source), PARTS):
        raise ZeroDivisionError
    assert layer(model) is own
