from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sdtune.api import Conditioning, ConfigError, ModelError, write_artifact
from sdtune.testing.webui import load_like_webui
from sdtune_hypernetwork.config import HypernetworkOptions
from sdtune_hypernetwork.files import Facts, make_artifact
from sdtune_hypernetwork.method import HypernetworkMethod
from sdtune_hypernetwork.network import Form, Hypernetwork

# The second implementation does the same operations in the same order.
EXACT = {"rtol": 0, "atol": 0}


def attach(model, seed=0, **options):
    method = HypernetworkMethod(HypernetworkOptions(**options))
    return method, method.attach(model, seed)


def parameters(groups):
    return {name: parameter for group in groups for name, parameter in group.params.items()}


def randomise(groups, std=0.2):
    torch.manual_seed(3)
    for parameter in parameters(groups).values():
        nn.init.normal_(parameter, std=std)


def trained(model, seed=0, **options):
    method, groups = attach(model, seed, **options)
    randomise(groups)
    return method


def export(method, model, folder, name="zwx", step=12):
    output = SimpleNamespace(comment="of a toy")
    run = SimpleNamespace(name=name, step=step, base_name="tiny", base_digest="", config=SimpleNamespace(output=output))
    (artifact,) = method.export(model, run)
    return write_artifact(artifact, None, folder, dtype="fp16")


def test_only_the_parameters_of_the_groups_require_grad(model):
    _, groups = attach(model, activation="prelu")
    required = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert required == {id(parameter) for parameter in parameters(groups).values()}


def test_one_pair_of_networks_per_width_by_stable_names(model):
    _, (group,) = attach(model, lr="1e-3:10, 1e-4")
    assert (group.name, group.part, group.lr, group.modules) == ("hypernetwork", "unet", "1e-3:10, 1e-4", 64)
    names = list(group.params)
    assert len(names) == 3 * 2 * 4
    assert names[0] == "hypernetwork.32.k.linear.0.weight"
    assert names[-1] == "hypernetwork.128.v.linear.1.bias"


def test_t3_contexts_of_keys_and_values_change_and_of_queries_do_not(model, predict):
    attach(model, activation="relu", init="XavierNormal")
    attention = model.part("unet").down_blocks[0].attentions[0].transformer_blocks[0].attn1
    seen = {}
    layers = {"q": attention.to_q, "k": attention.to_k.base, "v": attention.to_v.base}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda module, args, name=name: seen.__setitem__(name, args[0]))
    predict(model)
    assert not torch.equal(seen["q"], seen["k"])
    assert not torch.equal(seen["q"], seen["v"])
    assert not torch.equal(seen["k"], seen["v"])
    assert type(attention.to_q) is nn.Linear
    trained = attention.to_k.trained.eval()
    torch.testing.assert_close(seen["k"], seen["q"] + trained(seen["q"]))


def test_the_answer_begins_near_that_of_the_base_model_but_not_at_it(model, predict):
    expected = predict(model)
    attach(model)
    assert not torch.equal(predict(model), expected)
    torch.testing.assert_close(predict(model), expected, rtol=0, atol=0.01)


def test_init_depends_on_seed_and_size_alone(make_model):
    alone = parameters(attach(make_model(), sizes=(64,))[1])
    both = parameters(attach(make_model())[1])
    other = parameters(attach(make_model(), seed=1)[1])
    assert all(torch.equal(parameter, both[name]) for name, parameter in alone.items())
    weights = [name for name in alone if name.endswith("weight")]
    assert not any(torch.equal(alone[name], other[name]) for name in weights)


def test_every_parameter_gets_a_gradient(model):
    _, groups = attach(model, activation="mish", layer_norm=True, activate_output=True)
    randomise(groups)
    latents = torch.randn(2, 4, 8, 8)
    model.denoise(latents, torch.tensor([10, 900]), model.encode_prompt(["a zwx dog", "red"])).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters(groups).values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "relu", "init": "KaimingNormal", "structure": (1, 1.5, 2, 1)},
        {"activation": "swish", "layer_norm": True},
        {"activation": "elu", "dropout": (0, 0.3, 0), "export_dropout": True},
        {"activation": "elu", "dropout": (0, 0.3, 0), "activate_output": True},
        {"sizes": (64,)},
    ],
)
def test_the_file_in_webui_gives_the_trained_models_answer(
    options, model, make_model, predict, hook, webui_networks, tmp_path
):
    method = trained(model, **options)
    base = make_model()
    before = predict(base)
    hook(base, webui_networks(load_like_webui(export(method, model, tmp_path))))
    expected = predict(model.eval())
    assert (expected - before).abs().max() > 0.01
    torch.testing.assert_close(predict(base), expected, **EXACT)


def test_at_strength_0_webui_gives_the_base_models_answer(model, make_model, predict, hook, webui_networks, tmp_path):
    method = trained(model)
    base = make_model()
    before = predict(base)
    hook(base, webui_networks(load_like_webui(export(method, model, tmp_path))), strength=0)
    assert torch.equal(predict(base), before)


def test_strength_is_webuis_multiplier(model, make_model, predict, hook, webui_networks, tmp_path):
    half, base = make_model(), make_model()
    method = trained(half, strength=0.5)
    trained(model)
    before, whole, between = predict(base), predict(model), predict(half)
    hook(base, webui_networks(load_like_webui(export(method, half, tmp_path))), strength=0.5)
    torch.testing.assert_close(predict(base), between, **EXACT)
    assert (between - before).norm() < (whole - before).norm()
    assert (between - whole).norm() < (whole - before).norm()


def test_comfyui_computes_the_same_from_the_portable_file(model, make_model, predict, hook, comfyui_networks, tmp_path):
    method = trained(model, activation="tanh", dropout=(0, 0.3, 0))
    base = make_model()
    hook(base, comfyui_networks(load_like_webui(export(method, model, tmp_path))))
    torch.testing.assert_close(predict(base), predict(model.eval()), **EXACT)


@pytest.mark.slow
def test_chained_hypernetworks_act_before_the_trained_one(make_model, predict, hook, webui_networks, tmp_path):
    first, second, both, base = (make_model() for _ in range(4))
    one = export(trained(first, sizes=(32, 64), dropout=(0, 0.4, 0), export_dropout=True), first, tmp_path, "one")
    two = export(trained(second, activation="relu"), second, tmp_path, "two")
    method = trained(both, sizes=(64, 128), chain=[{"file": one, "strength": 0.7}, two])
    three = export(method, both, tmp_path, "three")
    for path, strength in ((one, 0.7), (two, 1), (three, 1)):
        hook(base, webui_networks(load_like_webui(path)), strength)
    torch.testing.assert_close(predict(base), predict(both.eval()), **EXACT)
    both.train()
    content = load_like_webui(three)
    assert [key for key in content if isinstance(key, int)] == [64, 128]


def test_the_chain_drops_nothing_while_training(model, make_model, predict, tmp_path):
    path = export(trained(model, dropout=(0, 0.9, 0), export_dropout=True), model, tmp_path)
    chained = make_model()
    attach(chained, chain=[path])
    expected = predict(chained)
    assert torch.equal(predict(chained.train()), expected)


def test_starting_from_a_file_is_the_inverse_of_export(model, make_model, tmp_path):
    options = {"activation": "relu", "dropout": (0, 0.2, 0), "sizes": (32, 64), "init": "XavierNormal"}
    method, groups = attach(model, export_dropout=True, **options)
    randomise(groups)
    fresh = make_model()
    second, started = attach(fresh, seed=9, from_file=export(method, model, tmp_path), export_dropout=True)
    expected = parameters(groups)
    assert parameters(started).keys() == expected.keys()
    assert all(torch.equal(parameter, expected[name]) for name, parameter in parameters(started).items())
    content = load_like_webui(export(second, fresh, tmp_path, "later"))
    assert (content["step"], content["name"], content["dropout_structure"]) == (24, "later", [0, 0.2, 0])
    assert (content["weight_initialization"], content["optional_info"]) == ("XavierNormal", "of a toy")


@pytest.fixture
def foreign(tmp_path):
    """Write a hypernetwork for contexts of given widths."""

    def foreign(*sizes):
        hypernetwork = Hypernetwork(sizes, Form())
        hypernetwork.reset("Normal", 0)
        return write_artifact(make_artifact(hypernetwork, Facts(name="a"), stem="a"), None, tmp_path, dtype="fp16")

    return foreign


def test_widths_of_a_file_that_the_model_lacks_are_left_out(model, foreign):
    _, groups = attach(model, from_file=foreign(48, 64, 128))
    assert {name.split(".")[1] for name in parameters(groups)} == {"64", "128"}


@pytest.mark.parametrize("option", ["chain", "from_file"])
def test_a_file_that_fits_nowhere_is_told(option, model, foreign):
    path = foreign(48, 96)
    with pytest.raises(ModelError, match="contexts of width 48, 96, the model has 32, 64, 128"):
        attach(model, **{option: path if option == "from_file" else [path]})


def test_a_size_the_model_lacks_is_told(model):
    with pytest.raises(ConfigError, match="no context of width 320, 768; it has 32, 64, 128"):
        attach(model, sizes="64,320,768")


def test_a_short_caption_beside_a_long_one_is_answered_as_if_alone(model):
    """Networks with a bias make something of the zeros that fill the short one up; the mask hides it."""
    _, groups = attach(model, activation="relu", layer_norm=True, activate_output=True)
    randomise(groups)
    hidden = model.encode_prompt(["a zwx dog", "red"]).hidden
    short, length = hidden[:1], hidden.shape[1]
    filled = torch.cat([hidden, torch.stack([torch.zeros_like(hidden[0]), hidden[1]])], dim=1)
    mask = torch.arange(2 * length) < torch.tensor([[length], [2 * length]])
    latents, steps = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        together = model.denoise(latents, steps, Conditioning(hidden=filled, mask=mask))
        alone = model.denoise(latents[:1], steps[:1], Conditioning(hidden=short))
        unmasked = model.denoise(latents, steps, Conditioning(hidden=filled))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-4)
    assert (unmasked[:1] - alone).abs().max() > 1e-3


def test_gradient_checkpointing_changes_no_gradient(model):
    _, groups = attach(model, activation="relu", dropout=(0, 0.3, 0))
    randomise(groups)
    named = parameters(groups)
    model.train()
    cond = model.encode_prompt(["a zwx dog"])
    latents, steps = torch.randn(1, 4, 8, 8), torch.tensor([500])

    def gradients():
        torch.manual_seed(7)
        return torch.autograd.grad(model.denoise(latents, steps, cond).square().sum(), list(named.values()))

    expected = gradients()
    model.enable_gradient_checkpointing()
    for one, other in zip(gradients(), expected, strict=True):  # shared networks sum over blocks in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
