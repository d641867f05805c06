"""Whole runs in each precision: they learn, they repeat after a stop, and what cannot be is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.errors import ConfigError, NumericsError, StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import SHALLOW, tiny_model, tiny_sd1
from sdtune.train.saving.checkpoint import list_checkpoints
from sdtune.train.watching.observers import Observer

PLUGINS = [sdtune_dreambooth, sdtune_hypernetwork, sdtune_lora, sdtune_lycoris, sdtune_textual_inversion]
METHODS = {
    "dreambooth": (),
    "lora": ("lora.rank=2", "lora.max_norm=1"),
    "lycoris": ("lycoris.algo=loha",),
    "lycoris dora": ("lycoris.weight_decompose=true",),
    "lycoris lokr": ("lycoris.algo=lokr",),
    "hypernetwork": (),
    "textual_inversion": ("textual_inversion.token=zwx",),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "3_thing"
    write_images(folder, 3, sizes=((64, 64),))
    return folder.parent


@pytest.fixture
def options(model, images):
    def make(output, method, *more):
        return [
            f"method={method.partition(' ')[0]}",
            f"model.path={model}",
            f"data.path={images}",
            "data.resolution=64",
            f"output.dir={output}",
            "output.name=thing",
            "train.steps=4",
            "log.tensorboard=false",
            *METHODS[method],
            *more,
        ]

    return make


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("choice", ["train.weights=bf16", "train.precision=fp16"])
def test_every_method_trains_in_few_bits(tmp_path, options, method, choice):
    run = train(PLUGINS, *options(tmp_path / "out", method, choice, "output.certify=true", "save.dtype=fp32"))
    assert run.folder.read_facts()["certificate"]
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "out"))
    wanted = torch.bfloat16 if choice.endswith("bf16") else torch.float32
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {wanted}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("dreambooth", ("train.weights=bf16",)),
        ("dreambooth", ("train.weights=bf16", "train.fused_backward=true", "train.max_grad_norm=0")),
        ("dreambooth", ("train.fused_backward=true", "train.max_grad_norm=0", "train.optimizer.name=adafactor")),
        (
            "lora",
            (
                "train.weights=bf16",
                "train.optimizer.name=prodigy",
                "train.lr=1",
                "lora.text_encoder=false",
                "train.ema.decay=0.9",
            ),
        ),
    ],
    ids=["bf16", "bf16 and fused", "fused", "bf16, all together"],
)
def test_stopping_and_resuming_changes_no_bit(tmp_path, options, method, more):
    train(PLUGINS, *options(tmp_path / "straight", method, *more))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "stopped", method, *more), stop_after=2)
    resume_training(PLUGINS, tmp_path / "stopped")
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "stopped"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "lion", "sgd"])
@pytest.mark.parametrize("more", [(), ("train.weights=bf16", "train.gradient_checkpointing=true")])
def test_a_fused_backward_gives_the_same_bits(tmp_path, options, optimizer, more):
    common = ("train.max_grad_norm=0", "train.max_grad_value=0.01", f"train.optimizer.name={optimizer}", *more)
    for name, choice in (("plain", "false"), ("fused", "true")):
        train(PLUGINS, *options(tmp_path / name, "dreambooth", *common, f"train.fused_backward={choice}"))
    assert losses(tmp_path / "plain") == losses(tmp_path / "fused")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "fused"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "form"),
    [
        ("lora", "nf4"),
        ("lycoris", "int8"),
        ("lycoris dora", "nf4"),
        ("hypernetwork", "nf4"),
        ("textual_inversion", "int8"),
    ],
)
def test_adapters_train_over_a_packed_base_and_do_elsewhere_what_they_do_here(tmp_path, options, method, form):
    more = (f"model.quantize={form}", "output.certify=true", "save.dtype=fp32")
    run = train(PLUGINS, *options(tmp_path / "out", method, *more))
    assert all(math.isfinite(loss) for loss in losses(tmp_path / "out"))
    assert f"linear layers in {form}" in run.model.describe()
    assert run.folder.read_facts()["certificate"]


@pytest.mark.slow
def test_an_adapter_over_a_packed_base_learns(tmp_path, options):
    more = (
        "model.quantize=nf4",
        "train.steps=40",
        "train.lr=1e-2",
        "train.min_timestep=500",
        "lora.text_encoder=false",
    )
    train(PLUGINS, *options(tmp_path / "out", "lora", "train.batch_size=3", *more))
    found = losses(tmp_path / "out")
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


def test_a_whole_model_over_a_packed_base_is_refused(tmp_path, options):
    with pytest.raises(ConfigError, match="the whole unet is trained"):
        train(PLUGINS, *options(tmp_path / "out", "dreambooth", "model.quantize=int8"))


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ("train.weights=fp16", "steps below 6e-8 vanish"),
        ("train.weights=bf16 train.precision=fp16", "computed in bf16"),
    ],
)
def test_weights_that_cannot_learn_are_refused(tmp_path, options, choice, reason):
    with pytest.raises(ConfigError, match=reason):
        train(PLUGINS, *options(tmp_path / "out", "lora", *choice.split()))


@pytest.mark.slow
@pytest.mark.parametrize("is_fused", [False, True])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, options, is_fused, monkeypatch):
    from sdtune.train.step.forward import TrainStep

    forward, calls = TrainStep.forward, []

    def spoiled(self, inputs):
        losses, terms = forward(self, inputs)
        calls.append(1)
        return (losses * math.nan if len(calls) == 3 else losses), terms

    monkeypatch.setattr(TrainStep, "forward", spoiled)
    more = ("train.max_grad_norm=0", f"train.fused_backward={is_fused}", "save.every_steps=1")
    with pytest.raises(NumericsError, match="step 3"):
        train(PLUGINS, *options(tmp_path / "out", "dreambooth", *more))
    assert list_checkpoints(tmp_path / "out" / "checkpoints")[-1].name.endswith("2")
    assert all(bool(tensor.isfinite().all()) for tensor in weights(tmp_path / "out").values())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_only_what_trains_stays_in_memory_where_outputs_are_cached(tmp_path, options, family):
    path = tiny_model(tmp_path / family, family, depths=SHALLOW.get(family))
    seen = []

    class Look(Observer):
        def on_step(self, run, report):
            seen.append({name for name, _ in run.model.named_children()})

    class Looking:
        @staticmethod
        @sdtune_lora.hookimpl
        def sdtune_observers(run):
            return [Look()]

    more = ("lora.text_encoder=false", "data.cache.latents=ram", "preview.prompts=[a thing]", "preview.every_steps=1")
    train(
        [*PLUGINS, Looking],
        *options(tmp_path / "out", "lora", f"model.path={path}", "preview.steps=2", "train.steps=2", *more),
    )
    assert seen == [{"unet"}, {"unet"}]
