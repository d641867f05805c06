"""Rows F06 and F26 of the fault table: other workers, and workers that die."""

import json
import threading

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.data.batches import BatchBuilder
from sdtune.errors import DataError, PlatformError, StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.saving.checkpoint import list_checkpoints

PLUGINS = [sdtune_lora]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def options(model, tmp_path):
    write_images(tmp_path / "data", 5, sizes=((64, 64), (96, 48)))

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={tmp_path / 'data'}",
            "data.resolution=64",
            "data.flip=true",
            "data.cache.latents=off",
            f"output.dir={output}",
            "train.steps=6",
            "train.batch_size=2",
            "train.gradient_accumulation=2",
            "lora.rank=2",
            "lora.dropout=0.1",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            *more,
        ]

    return make


@pytest.fixture
def dies_in_step_3(monkeypatch):
    built = BatchBuilder.build
    deaths = iter([1])  # one

    def build(self, plan, epoch, step):
        if epoch == 1 and next(deaths, 0):
            raise SystemExit("killed")
        return built(self, plan, epoch, step)

    monkeypatch.setattr(BatchBuilder, "build", build)


def losses(output):
    return [json.loads(line)["loss"].hex() for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


def saved(output):
    return [path.name for path in list_checkpoints(output / "checkpoints")]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_f06_other_workers_change_no_bit(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "straight", "data.workers=0"))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "changed", "data.workers=0", "data.prefetch=3"), stop_after=2)
    config = tmp_path / "changed" / "config.yaml"
    text = config.read_text()
    assert text.count("workers: 0") == text.count("prefetch: 3") == 1
    config.write_text(text.replace("workers: 0", "workers: 2").replace("prefetch: 3", "prefetch: 7"))
    resume_training(PLUGINS, tmp_path / "changed")
    assert losses(tmp_path / "changed") == losses(tmp_path / "straight")
    assert same(weights(tmp_path / "changed"), weights(tmp_path / "straight"))


def test_f26_a_worker_that_dies_hangs_nothing_and_the_state_is_saved(tmp_path, options, dies_in_step_3):
    threads = threading.active_count()
    with pytest.raises(PlatformError, match=r"a worker that prepares batches died: SystemExit: killed; the log of"):
        train(PLUGINS, *options(tmp_path / "out"))
    assert saved(tmp_path / "out") == ["step-00000002"]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["exit_code"] == 5
    assert "SystemExit: killed" in (tmp_path / "out" / "log.txt").read_text()
    assert threading.active_count() == threads


@pytest.mark.parametrize("workers", [0, 2])
def test_f26_an_image_that_is_gone_ends_the_run_at_its_step(tmp_path, options, workers):
    class Remove:
        @staticmethod
        @sdtune_lora.hookimpl
        def sdtune_observers(run):
            from sdtune.train.watching.observers import Observer

            class Delete(Observer):
                def on_step(self, run, report):
                    if report.step == 3:
                        for image in (tmp_path / "data").glob("*.png"):
                            image.unlink()

            return [Delete()]

    threads = threading.active_count()
    with pytest.raises(DataError, match=r"no file .*\.png"):
        train([*PLUGINS, Remove], *options(tmp_path / "out", f"data.workers={workers}", "data.prefetch=1"))
    assert saved(tmp_path / "out")[-1] >= "step-00000003"
    assert losses(tmp_path / "out")[2:]
    assert threading.active_count() == threads


def test_f26_after_the_death_of_a_worker_the_run_goes_on_as_if_it_had_not_been(tmp_path, options, dies_in_step_3):
    with pytest.raises(PlatformError):
        train(PLUGINS, *options(tmp_path / "died"))
    resume_training(PLUGINS, tmp_path / "died")
    train(PLUGINS, *options(tmp_path / "straight"))
    assert losses(tmp_path / "died") == losses(tmp_path / "straight")
    assert same(weights(tmp_path / "died"), weights(tmp_path / "straight"))
