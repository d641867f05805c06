import math

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from sdtune.api import ConfigError, ModelError, write_tensors
from sdtune_lycoris.cli import dylora_command
from sdtune_lycoris.config import DyloraOptions
from sdtune_lycoris.cut import cut_file, cut_tensors
from sdtune_lycoris.dylora import DyloraLayer, DyloraMethod

BASES = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "conv 3x3": (lambda: nn.Conv2d(6, 5, 3, padding=1), (2, 6, 4, 4)),
}
every_base = pytest.mark.parametrize("base", BASES)
METADATA = {"ss_network_args": '{"algo": "dylora", "unit": "2"}', "ss_network_dim": "8"}


def make(base, *, trained=True):
    torch.manual_seed(0)
    build, shape = BASES[base]
    layer = DyloraLayer(build(), torch.Generator().manual_seed(1), rank=8, alpha=4.0, unit=2)
    if trained:
        nn.init.normal_(layer.lora_up)
    return layer, torch.randn(shape)


def drawn(layer, x, frozen):
    """Give the answer while training with a unit behind `frozen` ranks."""
    layer.train().frozen = frozen
    return layer(x)


@pytest.fixture
def file(tmp_path):
    layer, _ = make("linear")
    tensors = {f"lora_unet_a.{name}": tensor for name, tensor in layer.tensors().items()}
    path = tmp_path / "zwx.safetensors"
    write_tensors(path, tensors, METADATA, overwrite=False)
    return path


@every_base
def test_a_fresh_layer_answers_as_the_frozen_one_to_the_last_bit(base):
    layer, x = make(base, trained=False)
    assert torch.equal(layer(x), layer.base(x))


@every_base
@pytest.mark.parametrize("frozen", [0, 2, 4, 6])
def test_a_cut_file_acts_as_the_layer_did_while_training(base, frozen):
    layer, x = make(base)
    cut = cut_tensors({f"a.{name}": tensor for name, tensor in layer.tensors().items()}, frozen + 2)
    down, up = cut["a.lora_down.weight"], cut["a.lora_up.weight"]
    delta = (up.flatten(1) @ down.flatten(1)) * cut["a.alpha"] / len(down)
    expected = drawn(layer, x, frozen)
    with torch.no_grad():
        layer.base.weight += delta.view(layer.base.weight.shape)
    torch.testing.assert_close(layer.base(x), expected)


@every_base
def test_outside_training_all_ranks_act(base):
    layer, x = make(base)
    expected = drawn(layer, x, 6)
    torch.testing.assert_close(layer.eval()(x), expected)
    delta = layer.delta_weight()
    with torch.no_grad():
        layer.base.weight += delta
    torch.testing.assert_close(layer.base(x), expected)


@every_base
def test_only_the_drawn_unit_learns(base):
    layer, x = make(base)
    drawn(layer, x, 4).sum().backward()
    learned = layer.lora_down.grad.flatten(1).any(1), layer.lora_up.grad.flatten(1).any(0)
    assert [row.tolist() for row in learned] == [[False] * 4 + [True] * 2 + [False] * 2] * 2


def test_every_unit_is_drawn():
    layer, x = make("linear")
    for seed in range(4):
        layer.draw(seed)
        layer(x).sum().backward()
    assert layer.lora_up.grad.any(0).all()


def test_cutting_names_the_file_and_tells_rank_and_alpha(file):
    path = cut_file(file, 4)
    assert path.name == "zwx-0004.safetensors"
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    alpha = 4.0 * math.sqrt(4 / 8)
    assert (metadata["ss_network_dim"], metadata["ss_output_name"]) == ("4", "zwx-0004")
    assert float(metadata["ss_network_alpha"]) == pytest.approx(alpha)
    assert load_file(path)["lora_unet_a.alpha"].item() == pytest.approx(alpha)


def test_cutting_to_the_full_rank_changes_no_tensor(file):
    found, expected = load_file(cut_file(file, 8)), load_file(file)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_command_tells_the_new_file(file, tmp_path):
    output = tmp_path / "small.safetensors"
    result = CliRunner().invoke(dylora_command, ["cut", str(file), "2", "--output", str(output)])
    assert result.output == f"{output}\n"
    assert load_file(output)["lora_unet_a.lora_down.weight"].shape == (2, 6)


@pytest.mark.parametrize("rank", [0, 3, 10])
def test_a_rank_that_was_not_trained_is_refused(file, rank):
    with pytest.raises(ConfigError, match=rf"cannot be cut to rank {rank}.*ranks: 2, 4, 6, 8"):
        cut_file(file, rank)


def test_another_lora_is_refused(tmp_path):
    write_tensors(tmp_path / "a.safetensors", {}, {}, overwrite=False)
    with pytest.raises(ModelError, match="not trained by dylora"):
        cut_file(tmp_path / "a.safetensors", 2)


def test_a_missing_or_broken_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no file"):
        cut_file(tmp_path / "a.safetensors", 2)
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="not a readable"):
        cut_file(tmp_path / "a.safetensors", 2)


def test_attaching_changes_no_bit_and_exports_a_lora(model, predict):
    from types import SimpleNamespace

    expected = predict(model)
    method = DyloraMethod(DyloraOptions(rank=4, unit=2, targets=[{"match": "*.to_q", "exclude": True}]))
    groups = method.attach(model, 0)
    assert torch.equal(predict(model), expected)
    assert [(group.name, group.modules) for group in groups] == [("unet", 192 - 32), ("text_encoder", 72)]
    run = SimpleNamespace(name="zwx", config=SimpleNamespace(train=SimpleNamespace(lr=1e-4)))
    (artifact,) = method.export(model, run)
    assert len(artifact.tensors) == 3 * (192 - 32 + 72)
    assert artifact.tensors["lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"].shape == (128, 4, 1, 1)
    assert artifact.metadata["ss_network_module"] == "networks.lora"


def test_nothing_left_is_told(model):
    method = DyloraMethod(DyloraOptions(targets=[{"match": "*", "exclude": True}]))
    with pytest.raises(ConfigError, match="no layer is left"):
        method.attach(model, 0)
