"""The watch over whole runs: what is told, once, and what is not."""

import json

import pytest
import torch

import sdtune_lora
from sdtune.testing.images import write_images
from sdtune.testing.runner import command
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.watching.observers import Observer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("watch")
    write_images(root / "data", 2, sizes=((128, 128),))
    model = tiny_sd1(root / "model")

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={root / 'data'}",
            "data.resolution=128",  # at 64 the middle is one pixel, and what looks at itself learns nothing there
            f"output.dir={output}",
            "output.certify=false",
            "train.steps=12",
            "watch.every_steps=1",
            "lora.rank=2",
            "log.tensorboard=false",
            *more,
        ]

    return make


class DeadLayer(Observer):
    """Takes the gradients of one layer away."""

    def on_start(self, run, step):
        for name, parameter in run.parameters().items():
            if name.startswith("unet.mid_block.attentions.0.proj_in."):
                parameter.register_hook(torch.zeros_like)


class DeadLayerPlugin:
    @staticmethod
    @sdtune_lora.hookimpl
    def sdtune_observers(run):
        return [DeadLayer()]


def test_a_healthy_run_is_not_warned_about_idle_layers_included(tmp_path, options, capsys):
    words = options(tmp_path / "run", "lora.text_encoder=true", "model.clip_skip=2", "train.lr=1e-3")
    assert command([sdtune_lora], "train", *words) == 0
    assert "warning" not in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line["update_ratio/unet"] < 0.1 for line in lines)
    assert all("update_ratio/text_encoder" in line for line in lines)


def test_a_dead_layer_is_named_once_on_the_screen_and_in_the_log(tmp_path, options, capsys):
    words = options(tmp_path / "run", "lora.text_encoder=false", "train.steps=22")
    assert command([sdtune_lora, DeadLayerPlugin], "train", *words) == 0
    text = "trained layers got no gradient up to step 10: unet.mid_block.attentions.0.proj_in\n"
    assert capsys.readouterr().err.count(text) == 1
    assert (tmp_path / "run" / "log.txt").read_text().count(text) == 1


def test_a_learning_rate_far_too_high_is_told_once(tmp_path, options, capsys):
    assert command([sdtune_lora], "train", *options(tmp_path / "run", "train.lr=3e-1", "lora.text_encoder=false")) == 0
    said = capsys.readouterr().err
    assert said.count("the learning rate of unet is probably too high: a step changes it by") == 1


def test_looking_changes_no_bit(tmp_path, options):
    losses = []
    for every in ("1", "5", "null"):
        out = tmp_path / every
        assert command([sdtune_lora], "train", *options(out, f"watch.every_steps={every}")) == 0
        losses.append([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])
    assert losses[0] == losses[1] == losses[2]
