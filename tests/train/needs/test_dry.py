"""The dry step tries the largest batch and leaves no trace."""

import json

import pytest
import torch

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.saving.checkpoint import latest_checkpoint
from sdtune.train.step.forward import TrainStep


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("dry")
    write_images(root / "data", 5, sizes=((64, 64), (64, 64), (96, 48)))
    model = tiny_sd1(root / "model")

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={root / 'data'}",
            "data.resolution=64",
            f"output.dir={output}",
            "train.steps=4",
            "train.batch_size=4",
            "lora.rank=2",
            "log.tensorboard=false",
            *more,
        ]

    return make


def trained(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    checkpoint, _ = latest_checkpoint(output / "checkpoints")
    tensors = {**checkpoint.parameters, **checkpoint.optimizer, **checkpoint.ema}
    return [json.loads(line)["loss"].hex() for line in lines], tensors


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("lora.dropout=0.1", "train.gradient_checkpointing=true", "train.ema.decay=0.9"),
        ("data.cache.latents=off", "data.cache.text=off", "train.gradient_accumulation=2"),
    ],
    ids=["cached", "not cached"],
)
def test_it_changes_no_bit(tmp_path, options, more):
    for name in ("true", "false"):
        train([sdtune_lora], *options(tmp_path / name, *more, f"train.dry_step={name}"))
    (losses, tensors), (dry_losses, dry_tensors) = trained(tmp_path / "false"), trained(tmp_path / "true")
    assert losses == dry_losses
    assert tensors.keys() == dry_tensors.keys()
    assert all(torch.equal(tensors[name], dry_tensors[name]) for name in tensors)


@pytest.mark.slow
def test_it_is_the_largest_batch_and_comes_first(tmp_path, options, monkeypatch):
    forward, shapes = TrainStep.forward, []

    def noted(self, inputs):
        shapes.append(tuple(inputs.noise.shape))
        return forward(self, inputs)

    monkeypatch.setattr(TrainStep, "forward", noted)
    train([sdtune_lora], *options(tmp_path / "run", "train.steps=1", "train.dry_step=true"))
    assert len(shapes) == 2
    assert shapes[0] == (4, 4, 8, 8)
    assert "dry step with 4 images of 64x64" in (tmp_path / "run" / "log.txt").read_text()
