"""Going on with a run: F01-F06, F08 and F22 of the fault table."""

import json
import os
import re
import shutil
import signal

import pytest
import torch

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.errors import StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import command, resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.inputs import InputSource
from sdtune.train.observers import Observer

PLUGINS = [sdtune_dreambooth, sdtune_hypernetwork, sdtune_lora, sdtune_lycoris, sdtune_textual_inversion]
STEPS = 8  # of two batches, three in an epoch of five images: the last of an epoch has one batch
METHODS = {
    "lora": ["method=lora", "lora.rank=2", "lora.dropout=0.1", "train.schedule.name=cosine"],
    "dreambooth": ["method=dreambooth", "dreambooth.unet_lr=1e-4"],
    "ti": ["method=ti", "textual_inversion.vectors=2", "textual_inversion.template=style_filewords"],
    "hypernetwork": ["method=hypernetwork", "hypernetwork.dropout=0,0.3,0", "train.schedule.name=linear"],
    "lycoris": ["method=lycoris", "lycoris.algo=lokr", "lycoris.rank=4", "lycoris.rank_dropout=0.1"],
    "dylora": ["method=dylora", "dylora.rank=4", "dylora.unit=2"],
}
POINTS = {"step 1": 1, "mid epoch": 2, "epoch end": 3, "epoch end + 1": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    tiny_sd1(root / "model")
    write_images(root / "data" / "1_thing", 5, caption="a red thing {index}")
    return [
        f"model.path={root / 'model'}",
        f"data.path={root / 'data'}",
        f"data.cache.dir={root / 'cache'}",
        "data.resolution=64",
        "train.lr=1e-3",
        "output.name=thing",
        "log.tensorboard=false",
        "save.dtype=fp32",
    ]


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def precision(request):
    return request.param


@pytest.fixture(scope="module", params=METHODS)
def straight(request, precision, base, tmp_path_factory):
    """A run that nobody stopped, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    loop = [f"train.steps={STEPS}", "train.gradient_accumulation=2", "train.ema.decay=0.9", "train.ema.power=0.67"]
    kept = ["save.every_steps=1", "save.keep=99", f"output.dir={folder}", f"train.precision={precision}"]
    train(PLUGINS, *base, *METHODS[request.param], *loop, *kept)
    return folder


@pytest.fixture
def stopped(straight, tmp_path):
    """Make a copy of the run as it was after a step."""

    def make(step):
        folder = tmp_path / f"stopped-{step}"
        (folder / "checkpoints").mkdir(parents=True)
        for name in ("config.yaml", "metrics.jsonl"):
            shutil.copy(straight / name, folder / name)
        facts = json.loads((straight / "run.json").read_text()) | {"state": "stopped", "step": step}
        (folder / "run.json").write_text(json.dumps(facts))
        shutil.copytree(checkpoint(straight, step), checkpoint(folder, step))
        return folder

    return make


def checkpoint(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}"


def state(folder, step):
    """Hashes of every file of a checkpoint: parameters, optimizer, average, position."""
    return json.loads((checkpoint(folder, step) / "manifest.json").read_text())["files"]


def numbers(folder, *names):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[name].hex() if isinstance(line[name], float) else line[name] for name in names) for line in lines]


def go_on(folder, *more, **options):
    torch.manual_seed(99)  # whatever the process did meanwhile
    try:
        resume_training(PLUGINS, folder, *more, **options)
    except StoppedError as stop:
        return int(re.search(r"after step (\d+)", str(stop))[1])
    return STEPS


class StopInMicroStep:
    """Ask for a stop, as a signal does, while the first batch of two is computed."""

    @staticmethod
    @sdtune_lora.hookimpl
    def sdtune_observers(run):
        class Ask(Observer):
            def on_start(self, run, step):
                answer = run.method.loss_terms

                def answer_and_ask(output):
                    run.method.loss_terms = answer
                    os.kill(os.getpid(), signal.SIGTERM)
                    return answer(output)

                run.method.loss_terms = answer_and_ask

        return [Ask()]


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_f01_a_stopped_run_takes_the_step_of_the_uninterrupted_one(straight, stopped, point):
    folder = stopped(point)
    assert go_on(folder, stop_after=1) == point + 1
    assert state(folder, point + 1) == state(straight, point + 1)
    assert numbers(folder, "loss", "grad_norm") == numbers(straight, "loss", "grad_norm")[: point + 1]


@pytest.mark.slow
def test_f01_a_stop_between_two_batches_of_a_step_ends_the_step(straight, stopped):
    folder = stopped(4)
    with pytest.raises(StoppedError, match="after step 5"):
        resume_training([*PLUGINS, StopInMicroStep], folder)
    assert state(folder, 5) == state(straight, 5)
    assert go_on(folder, stop_after=1) == 6
    assert state(folder, 6) == state(straight, 6)


@pytest.mark.slow
def test_f01_a_run_stopped_with_an_average_ends_like_the_uninterrupted_one(straight, stopped):
    folder = stopped(6)
    assert go_on(folder) == STEPS
    assert state(folder, STEPS) == state(straight, STEPS)
    assert numbers(folder, "step", "loss", "images_seen") == numbers(straight, "step", "loss", "images_seen")
