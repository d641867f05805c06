"""Going on with a run: F01-F06, F08 and F22 of the fault table."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

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
from sdtune.testing.runner import command, resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.inputs.source import InputSource
from sdtune.train.watching.observers import Observer

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
CASES = [
    *((method, precision) for method in METHODS for precision in ("fp32", "bf16") if method != "dylora"),
    ("dylora", "fp32"),
]
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


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def straight(request, base, tmp_path_factory):
    """A run that nobody stopped, with a checkpoint of every step."""
    method, precision = request.param
    folder = tmp_path_factory.mktemp("straight") / "run"
    loop = [f"train.steps={STEPS}", "train.gradient_accumulation=2", "train.ema.decay=0.9", "train.ema.power=0.67"]
    kept = ["save.every_steps=1", "save.keep=99", f"output.dir={folder}", f"train.precision={precision}"]
    train(PLUGINS, *base, *METHODS[method], *loop, *kept)
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
    """Give columns of the metrics, in hex, so that every bit is compared."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(float(line[name]).hex() for name in names) for line in lines]


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


@pytest.fixture(scope="module")
def lora(base):
    """Options of a small run, the later ones winning."""

    def make(output, *more):
        return [*base, "method=lora", "lora.rank=2", "lora.text_encoder=false", f"output.dir={output}", *more]

    return make


@pytest.fixture(scope="module")
def two_steps(lora, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "run"
    with pytest.raises(StoppedError):
        train(PLUGINS, *lora(folder, "train.steps=4"), stop_after=2)
    return folder


@pytest.fixture
def copy(two_steps, tmp_path):
    """A run of four steps, stopped after two."""
    return shutil.copytree(two_steps, tmp_path / "copy")


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def resume(folder, *words):
    return command(PLUGINS, "train", "--resume", str(folder), *words)


@pytest.mark.slow
def test_f01_a_new_process_goes_on_to_the_same_bits(lora, copy, tmp_path):
    train(PLUGINS, *lora(tmp_path / "straight", "train.steps=4"))
    code = f"import sdtune_lora, sdtune.testing.runner as r; r.resume_training([sdtune_lora], {str(copy)!r})"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
    assert state(copy, 4) == state(tmp_path / "straight", 4)
    assert numbers(copy, "loss") == numbers(tmp_path / "straight", "loss")


@pytest.mark.slow
def test_f02_three_stops_in_one_epoch_show_each_sample_once(lora, tmp_path, monkeypatch):
    write_images(tmp_path / "six", 6)
    options = [f"data.path={tmp_path / 'six'}", "train.steps=12", "data.workers=0"]  # nothing is prepared ahead
    seen, prepare = [], InputSource.prepare

    def note(self, epoch, plan, step):
        seen.extend((epoch, visit.sample_id) for visit in plan.visits)
        return prepare(self, epoch, plan, step)

    train(PLUGINS, *lora(tmp_path / "straight", *options))
    monkeypatch.setattr(InputSource, "prepare", note)
    with pytest.raises(StoppedError):
        train(PLUGINS, *lora(tmp_path / "cut", *options), stop_after=2)
    assert [go_on(tmp_path / "cut", stop_after=2) for _ in range(2)] == [4, 6]
    go_on(tmp_path / "cut")
    assert len(seen) == len(set(seen)) == 12
    assert numbers(tmp_path / "cut", "loss") == numbers(tmp_path / "straight", "loss")
    assert state(tmp_path / "cut", 12) == state(tmp_path / "straight", 12)


@pytest.mark.slow
def test_f03_a_finished_run_is_left_as_it_is(lora, tmp_path, capsys):
    train(PLUGINS, *lora(tmp_path / "run", "train.steps=1"))
    before = files(tmp_path / "run")
    assert resume(tmp_path / "run") == 0
    assert "the run is complete" in capsys.readouterr().err
    assert files(tmp_path / "run") == before


@pytest.mark.slow
def test_f04_a_longer_run_is_asked_for_and_shows_its_rates(lora, tmp_path, capsys):
    folder = tmp_path / "run"
    train(PLUGINS, *lora(folder, "train.steps=6", "train.schedule.name=cosine"))
    before = files(folder)
    assert resume(folder, "--steps", "12") == 2
    assert "train.steps 6 -> 12; leave them out, or add --extend" in capsys.readouterr().err
    assert files(folder) == before

    assert resume(folder, "--steps", "12", "--extend") == 0
    said = capsys.readouterr().err
    assert said.index("<- goes on here") < said.index("step 7/12")
    assert "the learning rate goes from 6.7e-05 in step 6 to 0.0005 in step 7" in said
    rates = [json.loads(line)["lr/unet"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [1e-3 * (1 + math.cos(step / 12 * math.pi)) / 2 for step in range(12)]
    assert rates[6:] == pytest.approx(curve[6:], rel=1e-9)
    assert min(rates[6:]) > 0
    largest = max(abs(after - now) for now, after in pairwise(curve))
    assert max(abs(after - now) for now, after in pairwise(rates[6:])) <= largest


CHANGES = {
    "rate": (["--lr", "1e-2"], "train.lr 0.001 -> 0.01", 0),
    "batch": (["--batch-size", "2"], "train.batch_size 1 -> 2", 0),
    "rank": (["--rank", "4"], "lora.rank 2 -> 4", 2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("words", "change", "code"), CHANGES.values(), ids=CHANGES.keys())
def test_f05_a_changed_option_is_named_and_refused(copy, capsys, words, change, code):
    before = files(copy)
    assert resume(copy, *words) == 2
    assert change in capsys.readouterr().err
    assert files(copy) == before
    assert resume(copy, *words, "--accept-changes") == code
    assert change in capsys.readouterr().err


@pytest.mark.slow
def test_f05_a_changed_data_set_is_named_and_refused(copy, tmp_path, capsys):
    write_images(tmp_path / "other", 3)
    before = files(copy)
    assert resume(copy, "--data", str(tmp_path / "other")) == 2
    said = capsys.readouterr().err
    assert "images or captions changed" in said
    assert f"data -> {tmp_path / 'other'}" in said
    assert files(copy) == before
    assert resume(copy, "--data", str(tmp_path / "other"), "--accept-changes") == 0
    assert "the step number alone says which come next" in capsys.readouterr().err


@pytest.mark.slow
def test_f08_another_number_of_threads_is_told(lora, tmp_path, capsys):
    options = ["train.steps=2", "train.lr=1e-4"]  # Adam's first steps are as long as the rate, whatever the gradient
    train(PLUGINS, *lora(tmp_path / "straight", *options))
    with pytest.raises(StoppedError):
        train(PLUGINS, *lora(tmp_path / "cut", *options), stop_after=1)
    assert resume(tmp_path / "cut", "train.threads=2") == 0
    assert "threads was 1 and is 2" in capsys.readouterr().err
    assert torch.get_num_threads() == 1
    first, second = (load_file(checkpoint(tmp_path / run, 2) / "parameters.safetensors") for run in ("cut", "straight"))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_f22_a_finished_run_is_not_written_over_unasked(lora, tmp_path, capsys):
    options = lora(tmp_path / "run", "train.steps=1")
    train(PLUGINS, *options)
    before = files(tmp_path / "run")
    assert command(PLUGINS, "train", *options) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert files(tmp_path / "run") == before
    assert command(PLUGINS, "train", *options, "--overwrite", "output.certify=false") == 0
