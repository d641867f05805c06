import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import sdtune_lycoris
from sdtune.errors import StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune_lycoris.config import LycorisOptions
from sdtune_lycoris.method import LycorisMethod

RUN = SimpleNamespace(name="zwx", config=SimpleNamespace(train=SimpleNamespace(lr=1e-4)))
SLOW = ["locon", "loha", "ia3", "full", "glora", "diag-oft", "boft"]
ALGOS = ["lokr", *(pytest.param(algo, marks=pytest.mark.slow) for algo in SLOW)]


def attach(model, seed=0, **options):
    method = LycorisMethod(LycorisOptions(**options))
    return method, method.attach(model, seed)


def parameters(groups):
    return {name: parameter for group in groups for name, parameter in group.params.items()}


def randomise(groups):
    torch.manual_seed(3)
    for parameter in parameters(groups).values():
        nn.init.normal_(parameter, std=0.1)


@pytest.mark.parametrize("algo", ALGOS)
def test_attaching_changes_no_bit_and_trains_what_it_says(model, predict, algo):
    expected = predict(model)
    _, groups = attach(model, algo=algo, norms=True)
    assert torch.equal(predict(model), expected)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in parameters(groups).values()}


@pytest.mark.parametrize("algo", ALGOS)
def test_every_parameter_gets_a_gradient(model, predict, algo):
    _, groups = attach(model, algo=algo, norms=True)
    randomise(groups)
    predict(model).square().sum().backward()
    missing = [name for name, parameter in parameters(groups).items() if not parameter.grad.abs().sum() > 0]
    assert missing == []


def test_parameters_have_stable_names(model):
    _, groups = attach(model, algo="lokr", rank=4, norms=True)
    names = parameters(groups).keys()
    assert "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lokr_w1" in names
    assert "unet.down_blocks.0.resnets.0.norm1.w_norm" in names
    assert [(group.name, group.modules) for group in groups] == [("unet", 278 + 108), ("text_encoder", 72)]


@pytest.mark.slow
def test_init_depends_on_seed_and_path_alone(make_model):
    alone = parameters(attach(make_model(), text_encoder=False, preset="attn-mlp")[1])
    both = parameters(attach(make_model())[1])
    other = parameters(attach(make_model(), seed=1)[1])
    assert all(torch.equal(parameter, both[name]) for name, parameter in alone.items())
    assert not any(torch.equal(parameter, other[name]) for name, parameter in alone.items() if name.endswith("down"))


def test_norms_begin_at_zero(model):
    method, groups = attach(model, norms=True)
    found = [parameter for name, parameter in parameters(groups).items() if name.endswith("_norm")]
    assert len(found) == 2 * 108
    assert not any(parameter.any() for parameter in found)
    (artifact,) = method.export(model, RUN)
    assert artifact.tensors["lora_unet_mid_block_attentions_0_norm.w_norm"].shape == (128,)
    assert "lora_unet_mid_block_attentions_0_norm.b_norm" in artifact.tensors


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"algo": "ia3"}, "diff"),
        ({"algo": "ia3", "save_as": "native"}, "weight"),
        ({"algo": "diag-oft"}, "oft_blocks"),
        ({"algo": "diag-oft", "rescaled": True}, "diff"),
        ({"algo": "lokr"}, "lokr_w1"),
        ({"algo": "lokr", "save_as": "diff"}, "diff"),
    ],
)
def test_files_have_the_form_that_webuis_apply(model, options, form):
    method, _ = attach(model, preset="attn-only", **options)
    (artifact,) = method.export(model, RUN)
    assert f"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.{form}" in artifact.tensors
    assert not any(tensor.requires_grad for tensor in artifact.tensors.values())


def test_metadata_reads_as_that_of_lycoris(model):
    method, _ = attach(model, algo="lokr", factor=4, rank=8, alpha=2.0, conv_rank=4)
    (artifact,) = method.export(model, RUN)
    metadata = artifact.metadata
    assert (metadata["ss_network_module"], metadata["ss_network_dim"]) == ("lycoris.kohya", "8")
    args = {"algo": "lokr", "preset": "full", "factor": "4", "conv_dim": "4", "conv_alpha": "4.0"}
    assert json.loads(metadata["ss_network_args"]) == args


def test_a_dropped_layer_answers_as_the_frozen_one(model, predict):
    expected = predict(model)
    _, groups = attach(model, algo="lokr", module_dropout=0.999999)
    randomise(groups)
    model.train()
    assert torch.equal(predict(model), expected)
    model.eval()
    assert not torch.equal(predict(model), expected)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["locon", "loha", "full"])
def test_gradient_checkpointing_changes_no_gradient(model, predict, algo):
    _, groups = attach(model, algo=algo, rank_dropout=0.2)
    randomise(groups)
    named = parameters(groups)
    model.train()

    def gradients():
        torch.manual_seed(5)
        return torch.autograd.grad(predict(model).square().sum(), list(named.values()))

    expected = gradients()
    model.enable_gradient_checkpointing()
    assert all(torch.equal(one, other) for one, other in zip(gradients(), expected, strict=True))


@pytest.fixture
def options(tmp_path, model_path, make_model):
    make_model()
    write_images(tmp_path / "images")
    shared = ["train.steps=4", "train.batch_size=2", "data.cache.latents=ram", "data.resolution=64"]
    return [f"model.path={model_path}", f"data.path={tmp_path / 'images'}", "save.dtype=fp32", *shared]


METHODS = [
    ["method=lycoris", "lycoris.algo=lokr", "lycoris.rank=4", "lycoris.rank_dropout=0.1"],
    ["method=lycoris", "lycoris.algo=loha", "lycoris.norms=true", "lycoris.module_dropout=0.2"],
    ["method=dylora", "dylora.rank=4", "dylora.unit=2"],
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_resume_repeats_the_uninterrupted_run(tmp_path, options, method):
    plugins = [sdtune_lycoris]
    whole = train(plugins, *options, *method, f"output.dir={tmp_path / 'whole'}", "output.name=x")
    with pytest.raises(StoppedError):
        train(plugins, *options, *method, f"output.dir={tmp_path / 'halves'}", "output.name=x", stop_after=2)
    resume_training(plugins, tmp_path / "halves")
    (one,), (two,) = ([*(tmp_path / name).rglob("x.safetensors")] for name in ("whole", "halves"))
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert whole.timetable.steps == 4
