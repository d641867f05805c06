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
from sdtune.errors import StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.checkpoint import list_checkpoints

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
    train(PLUGINS, *options(tmp_path / "out", method, choice, "output.certify=true", "save.dtype=fp32"))
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
