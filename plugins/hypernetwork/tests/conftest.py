from itertools import pairwise

import pytest
import torch
from torch import nn

from sdtune.testing.models import open_tiny_sd1

SIZES = (32, 64, 128)  # widths of self-attention; text is 64 wide too


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

    @torch.no_grad()
    def predict(model):
        return model.denoise(latents, torch.tensor([10, 900]), model.encode_prompt(["a zwx dog", "red circle"]))

    return predict


def _activation(name):
    named = {"swish": nn.Hardswish, "softmax": lambda: nn.Softmax(dim=0)}
    found = {key.lower(): value for key, value in vars(nn).items() if isinstance(value, type)}
    return (found | named)[name]()


def _webui_network(width, content, state):
    """Build one network by the fields of a file, as webui does (formats.md 5)."""
    structure, members = content["layer_structure"], []
    for index, (before, after) in enumerate(pairwise(structure)):
        members.append(nn.Linear(int(width * before), int(width * after)))
        is_last = index == len(structure) - 2
        if content["activation_func"] != "linear" and (not is_last or content["activate_output"]):
            members.append(_activation(content["activation_func"]))
        if content["is_layer_norm"]:
            members.append(nn.LayerNorm(int(width * after)))
        if content["dropout_structure"][index + 1]:
            members.append(nn.Dropout(content["dropout_structure"][index + 1]))
    network = nn.ModuleDict({"linear": nn.Sequential(*members)})
    network.load_state_dict(state)
    return network["linear"].eval()


def _comfyui_network(content, state):
    """Build one network from its tensors in their order, with the defects of ComfyUI's loader (formats.md 5.1)."""
    names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
    members = []
    for place, name in enumerate(names):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        member = nn.LayerNorm(len(weight)) if weight.dim() == 1 else nn.Linear(*weight.t().shape)
        member.load_state_dict({"weight": weight, "bias": bias})
        members.append(member)
        seems_last = place == len(names) - 1
        active = content["activation_func"] != "linear" and (not seems_last or content["activate_output"])
        if weight.dim() == 2 and active:
            members.append(_activation(content["activation_func"]))
    return nn.Sequential(*members)


@pytest.fixture
def webui_networks():
    """Build all networks of a file's content as webui does: width to the one for k and the one for v."""

    def build(content):
        widths = [key for key in content if isinstance(key, int)]
        return {width: [_webui_network(width, content, state) for state in content[width]] for width in widths}

    return build


@pytest.fixture
def comfyui_networks():
    """The same as ComfyUI does."""

    def build(content):
        widths = [key for key in content if isinstance(key, int)]
        return {width: [_comfyui_network(content, state) for state in content[width]] for width in widths}

    return build


@pytest.fixture
def hook():
    """Change the contexts of keys and values in every attention of a base model, by hooks: no code of the plugin."""

    def change(network, strength):
        return lambda module, args: (args[0] + network(args[0]) * strength,)

    def hook(model, networks, strength=1.0):
        attentions = [
            module for name, module in model.part("unet").named_modules() if name.endswith(("attn1", "attn2"))
        ]
        assert len(attentions) == 32
        for attention in attentions:
            width = attention.to_k.in_features
            if width in networks:
                for layer, network in zip((attention.to_k, attention.to_v), networks[width], strict=True):
                    layer.register_forward_pre_hook(change(network, strength))

    return hook
