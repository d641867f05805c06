import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sdtune.api import merge_adapters
from sdtune_lora.config import LoraOptions
from sdtune_lora.layers import LoraLayer
from sdtune_lora.method import LoraMethod

RUN = SimpleNamespace(name="zwx", config=SimpleNamespace(train=SimpleNamespace(lr=1e-4)))


def attach(model, seed=0, **options):
    method = LoraMethod(LoraOptions(rank=4, **options))
    return method, method.attach(model, seed)


def parameters(groups):
    return {name: parameter for group in groups for name, parameter in group.params.items()}


def randomise(groups):
    torch.manual_seed(3)
    for parameter in parameters(groups).values():
        nn.init.normal_(parameter, std=0.1)


def export(method, model):
    (artifact,) = method.export(model, RUN)
    return artifact


def test_attaching_changes_no_bit_of_the_answer(model, predict):
    expected = predict(model)
    attach(model, conv_rank=2)
    assert torch.equal(predict(model), expected)


def test_only_the_parameters_of_the_groups_require_grad(model):
    _, groups = attach(model, conv_rank=2)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in parameters(groups).values()}
    assert len(trained) == 2 * (278 + 72)


def test_every_parameter_gets_a_gradient(model, predict):
    _, groups = attach(model, conv_rank=2)
    randomise(groups)
    predict(model).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters(groups).values())


def test_parameters_have_stable_names(model):
    _, groups = attach(model)
    names = parameters(groups).keys()
    assert "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_down" in names
    assert "text_encoder.text_model.encoder.layers.11.mlp.fc2.lora_up" in names
    assert [(group.name, group.part, group.modules) for group in groups] == [
        ("unet", "unet", 192),
        ("text_encoder", "text_encoder", 72),
    ]


def test_init_depends_on_seed_and_path_alone(make_model):
    alone = parameters(attach(make_model(), text_encoder=False)[1])
    both = parameters(attach(make_model(), conv_rank=2)[1])
    other = parameters(attach(make_model(), seed=1)[1])
    assert all(torch.equal(parameter, both[name]) for name, parameter in alone.items())
    assert not any(torch.equal(parameter, other[name]) for name, parameter in alone.items() if name.endswith("down"))
    first, second = list(alone.values())[0:4:2]
    assert not torch.equal(first, second)


def test_lora_plus_gives_up_matrices_their_own_rate(model):
    _, groups = attach(model, lora_plus_ratio=16, unet_lr=1e-3)
    assert [(group.name, group.lr, group.lr_scale) for group in groups] == [
        ("unet", 1e-3, 1.0),
        ("unet plus", 1e-3, 16.0),
        ("text_encoder", None, 0.5),
        ("text_encoder plus", None, 8.0),
    ]
    assert all(name.endswith("lora_up") for name in groups[1].params)


def test_a_rate_of_zero_leaves_a_part_alone():
    assert LoraMethod(LoraOptions(text_encoder_lr=0)).parts() == ("unet",)
    assert LoraMethod(LoraOptions(unet=False)).parts() == ("text_encoder",)
    assert LoraMethod(LoraOptions()).parts() == ("unet", "text_encoder")


def test_exports_what_webui_reads(model):
    method, _ = attach(model, conv_rank=2, alpha=2.0)
    artifact = export(method, model)
    assert (artifact.kind, artifact.stem, artifact.architecture_suffix) == ("lora", "zwx", "/lora")
    assert len(artifact.tensors) == 3 * (278 + 72)
    key = "lora_unet_down_blocks_0_attentions_0_proj_in"
    assert artifact.tensors[f"{key}.lora_down.weight"].shape == (4, 32, 1, 1)
    assert artifact.tensors[f"{key}.lora_up.weight"].shape == (32, 4, 1, 1)
    assert artifact.tensors[f"{key}.alpha"].item() == 2.0
    assert artifact.tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"].shape == (4, 64)
    assert all(tensor.dtype == torch.float32 and not tensor.requires_grad for tensor in artifact.tensors.values())


def test_metadata_reads_as_that_of_sd_scripts(model):
    method, _ = attach(model, conv_rank=2, text_encoder_lr=1e-5, lora_plus_ratio=16)
    metadata = export(method, model).metadata
    assert metadata == {
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "4.0",
        "ss_network_dropout": "None",
        "ss_network_args": metadata["ss_network_args"],
        "ss_scale_weight_norms": "None",
    }
    args = {"conv_dim": "2", "conv_alpha": "2.0", "loraplus_lr_ratio": "16.0"}
    assert json.loads(metadata["ss_network_args"]) == args


def test_starting_from_a_file_is_the_inverse_of_export(model, tmp_path, make_model):
    method, groups = attach(model, conv_rank=2)
    randomise(groups)
    tensors = dict(export(method, model).tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    fresh = make_model()
    second, _ = attach(fresh, seed=9, conv_rank=2, from_file=tmp_path / "a.safetensors")
    found = export(second, fresh).tensors
    assert found.keys() == tensors.keys()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in found.items())


def test_merging_gives_the_same_answer_without_adapters(model, predict, make_model):
    _, groups = attach(model, conv_rank=2, alpha=2.0)
    randomise(groups)
    expected = predict(model)
    names = make_model().state_dict().keys()
    merge_adapters(model, {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)})
    assert model.state_dict().keys() == names
    torch.testing.assert_close(predict(model), expected, rtol=1e-4, atol=1e-4)


def test_max_norm_is_kept_and_told(model):
    method, groups = attach(model, max_norm=0.5)
    assert method.metrics() == {}
    randomise(groups)
    method.after_step(model, 1)
    told = method.metrics()
    assert told["norm/max"] > 0.5
    assert told["norm/shrunk"] > 0
    method.after_step(model, 2)
    assert method.metrics()["norm/max"] <= 0.5 * (1 + 1e-5)


def test_without_max_norm_nothing_is_touched(model):
    method, groups = attach(model)
    randomise(groups)
    before = {name: parameter.clone() for name, parameter in parameters(groups).items()}
    method.after_step(model, 1)
    assert all(torch.equal(parameter, before[name]) for name, parameter in parameters(groups).items())


def test_gradient_checkpointing_changes_no_gradient(model, predict):
    _, groups = attach(model, conv_rank=2)
    randomise(groups)
    named = parameters(groups)
    expected = torch.autograd.grad(predict(model).square().sum(), list(named.values()))
    model.train()
    model.enable_gradient_checkpointing()
    found = torch.autograd.grad(predict(model).square().sum(), list(named.values()))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.slow
def test_training_learns(model, predict):
    _, groups = attach(model, conv_rank=2)
    optimizer = torch.optim.AdamW(list(parameters(groups).values()), lr=1e-2)
    target = torch.randn(2, 4, 8, 8)
    losses = []
    for _ in range(8):
        loss = (predict(model) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
