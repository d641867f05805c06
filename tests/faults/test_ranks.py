"""Rows F07 and F25 of the fault table: a training on two processes, and what happens to one of them."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.errors import StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.train.saving.checkpoint import list_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.long]
SCRIPT = Path(__file__).with_name("train_here.py")
STEPS = 8


def launch(notes, *words, send):
    """Start two processes; give the exit codes of torchrun and of those that came to their end."""
    notes.mkdir()
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    env = os.environ | {"SEND": str(int(send)), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*torchrun, SCRIPT, notes, *words], env=env, capture_output=True, text=True, timeout=200)
    codes = {path.name: int(path.read_text()) for path in notes.glob("exit-*")}
    return done.returncode, codes, done.stderr


def numbers(output, name):
    return [json.loads(line)[name] for line in (output / "metrics.jsonl").read_text().splitlines()]


def steps_saved(output):
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(output / "checkpoints")]


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


def facts(output):
    return json.loads((output / "run.json").read_text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One training on one process, and another that went from two processes to one, to two, to one."""
    folder = tmp_path_factory.mktemp("ranks")
    write_images(folder / "data" / "2_thing", 5, sizes=((64, 64), (96, 48)))
    options = [
        "method=lora",
        "model.path=demo",
        f"data.path={folder / 'data'}",
        "data.resolution=64",
        "train.batch_size=3",
        "data.write_schedule=true",
        f"train.steps={STEPS}",
        "lora.rank=2",
        "log.tensorboard=false",
        "save.dtype=fp32",
        "output.name=thing",
        "output.certify=false",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDTUNE_CACHE_DIR", str(folder / "cache"))
        alone, shared = folder / "alone", folder / "shared"
        made = {"alone": alone, "shared": shared}
        made["stopped"] = launch(
            folder / "first", "train", *options, f"output.dir={shared}", f"data.cache.dir={folder / 'other'}",
            send=signal.SIGTERM,
        )  # fmt: skip
        made["facts"], made["first saved"] = facts(shared), steps_saved(shared)
        with pytest.raises(StoppedError):
            resume_training([sdtune_lora], shared, stop_after=1)
        made["killed"] = launch(folder / "second", "train", "--resume", str(shared), send=signal.SIGKILL)
        made["second saved"] = steps_saved(shared)
        resume_training([sdtune_lora], shared)
        train([sdtune_lora], *options, f"output.dir={alone}")
    return made


def test_f07_one_and_two_processes_train_alike(made):
    alone, shared = made["alone"], made["shared"]
    assert made["facts"]["world_size"] == 2
    assert facts(shared)["world_size"] == 1
    assert numbers(shared, "step") == list(range(1, STEPS + 1))
    assert numbers(shared, "images_seen") == numbers(alone, "images_seen")
    assert numbers(shared, "loss") == pytest.approx(numbers(alone, "loss"), rel=1e-5)
    torch.testing.assert_close(weights(shared), weights(alone), rtol=0, atol=1e-6)


def test_f07_one_and_two_processes_have_one_schedule(made):
    alone, shared = ((made[name] / "schedule.jsonl").read_bytes() for name in ("alone", "shared"))
    assert alone == shared
    assert alone.count(b"\n") == STEPS


def test_f25_a_stop_of_one_process_stops_all_and_saves(made):
    code, codes, said = made["stopped"]
    assert codes == {"exit-0": 75, "exit-1": 75}
    assert code != 0
    assert said.count("stopped: stopped after step") == 1
    assert made["first saved"] in ([2], [3])
    assert re.search(r"^processes +2, visits of a step: 3 in all, 1 or 2 each$", said, re.MULTILINE)


def test_f25_the_death_of_one_process_ends_the_other_with_its_state_saved(made):
    code, codes, said = made["killed"]
    assert codes == {"exit-0": 5}
    assert code != 0
    assert "error: another process of this training has ended" in said
    assert made["second saved"][-1] == made["first saved"][-1] + 3
