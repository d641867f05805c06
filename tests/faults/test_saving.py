"""Rows F09 to F13: killed at any instant, a run loses no state that was saved; damage is passed over and kept."""

import json
import os
import random
import shutil
import signal
import sys
import time
from functools import partial

import pytest
import torch

from sdtune.config.compose import load
from sdtune.data.caches.tensor_store import ShardStore, content_key, list_shards
from sdtune.errors import StoppedError
from sdtune.export.container import read_metadata
from sdtune.export.writer import write_folder, write_tensors
from sdtune.files import sweep_drafts, writing
from sdtune.plugins import Registry
from sdtune.testing.runner import train
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.source import open_source
from sdtune.train.machine.signals import StopRequest
from sdtune.train.saving.checkpoint import (
    Checkpoint,
    Position,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from sdtune.train.saving.folder import RunFolder
from sdtune.train.saving.lock import RunLock
from sdtune.train.trainer import Trainer
from sdtune.train.watching.observers import MetricsObserver

KILLS = 100
SAVE_EVERY = 3


def lap_of(options, path, plugins):
    """Assemble the run once; give what a started process does from then on: sweep, load, train to the end."""
    folder = RunFolder(path)
    registry = Registry.from_plugins(plugins)
    loaded = load(registry, overrides=(*options, "train.steps=30", f"save.every_steps={SAVE_EVERY}"))
    run = assemble(loaded, registry, folder)
    source = open_source(run, preview_texts=(), on_progress=lambda *_: None)

    def lap():
        with RunLock(path), StopRequest() as stop:
            sweep_drafts(path, is_alone=True)
            checkpoint, damaged = latest_checkpoint(folder.checkpoints)
            assert not damaged
            trainer = Trainer(run, source, [MetricsObserver(folder.metrics)], stop)
            if checkpoint is not None:
                trainer.restore(checkpoint)
            trainer.train()

    return lap


def saved_step(path):
    """Read the newest checkpoint, which must be whole, and see that what was told to be saved is there."""
    found = list_checkpoints(path / "checkpoints")
    newest = load_checkpoint(found[-1]).position.step if found else 0
    acknowledged = RunFolder(path).read_facts().get("step", 0)
    seen = [
        json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines(True) if line[-1] == "\n"
    ]
    assert acknowledged <= newest
    assert max(seen, default=0) - newest <= SAVE_EVERY
    return newest


@pytest.mark.slow
@pytest.mark.long
def test_f09_a_hundred_kills_lose_nothing_that_was_saved(faults, options, straight, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    lap = lap_of(options, path, faults.PLUGINS)
    assert faults.fork(lap, tmp_path / "said.txt").wait() == 0
    whole = faults.losses(path)
    draw, reached, in_saves = random.Random(0), 30, 0
    for kill in range(KILLS):
        if reached == 30:  # a new run, in place of one that came to its end
            assert faults.losses(path) == whole
            shutil.rmtree(path)
            path.mkdir()
            reached = 0
            (path / "metrics.jsonl").touch()
        child = faults.fork(lap, tmp_path / "said.txt")
        if kill % 2:  # every other one while something is being written
            wait_for(partial(faults.drafts, path / "checkpoints"), at_most_s=2.0)
        code = child.kill(draw.uniform(0.0, 0.02 if kill % 2 else 0.6))
        assert code in (-signal.SIGKILL, 0), child.said.read_text()
        reached, before = saved_step(path), reached
        in_saves += bool(faults.drafts(path))
        assert reached >= before
    assert faults.fork(lap, tmp_path / "said.txt").wait() == 0
    assert faults.losses(path) == whole
    assert not faults.drafts(path)
    assert in_saves >= 10  # left something half written


# F10: every file operation in turn is the last one of the process.


def state_at(step):
    """Make a checkpoint of a few numbers."""
    position = Position(step=step, dataset="d", model="m", loss_average=(1.0, 1.0), optimizer={}, scaler={})
    tensors = {"a": torch.full((64,), float(step))}
    return Checkpoint(parameters=tensors, optimizer=tensors, position=position)


class Rotation:
    least = 20

    def prepare(self, path):
        for step in (1, 2):
            save_checkpoint(path, state_at(step), keep=2)

    def write(self, path):
        save_checkpoint(path, state_at(3), keep=1)

    def check(self, path):
        steps = [load_checkpoint(found).position.step for found in list_checkpoints(path)]
        assert steps in ([1, 2], [1, 2, 3], [2, 3], [3])


class ExportedFile:
    least = 6

    def prepare(self, path):
        write_tensors(path / "a.safetensors", {"a": torch.zeros(9)}, {"is": "old"}, overwrite=False)

    def write(self, path):
        write_tensors(path / "a.safetensors", {"a": torch.ones(9)}, {"is": "new"}, overwrite=True)

    def check(self, path):
        assert read_metadata(path / "a.safetensors")["is"] in ("old", "new")


class ExportedFolder:
    least = 8

    def prepare(self, path):
        write_folder(path / "a", {"x/y": b"old", "z": b"old"})

    def write(self, path):
        write_folder(path / "a", {"x/y": b"new", "z": b"new"}, overwrite=True)

    def check(self, path):
        assert {(path / "a" / name).read_bytes() for name in ("x/y", "z")} in ({b"old"}, {b"new"})


class CacheShard:
    least = 6
    key = content_key("a")

    def prepare(self, path):
        ShardStore(path)

    def write(self, path):
        store = ShardStore(path)
        store.save(self.key, {"a": torch.ones(9)})
        store.flush()

    def check(self, path):
        entry = ShardStore(path).load(self.key)
        assert (entry is not None) == bool(list_shards(path))


class Status:
    least = 6

    def prepare(self, path):
        RunFolder(path).write_facts({"state": "running", "step": 1})

    def write(self, path):
        RunFolder(path).write_facts({"step": 2})

    def check(self, path):
        assert json.loads((path / "run.json").read_text()) in [{"state": "running", "step": step} for step in (1, 2)]


class Manifest:
    least = 12

    def prepare(self, path):
        (path / "manifest.json").touch()

    def write(self, path):
        save_checkpoint(path / "checkpoints", state_at(3), keep=1)

    def check(self, path):
        assert all(load_checkpoint(found).position.step == 3 for found in list_checkpoints(path / "checkpoints"))


def kill_at(number, path):
    """Make the `number`-th file operation below a folder this process's last thing but one."""
    left = [number]

    def hook(event, args):
        if event.startswith(("open", "os.", "shutil.")) and any(str(path) in str(arg) for arg in args):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def write_until(number, artefact, path):
    kill_at(number, path)
    artefact.write(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Rotation, ExportedFile, ExportedFolder, CacheShard, Status, Manifest])
def test_f10_a_kill_between_any_two_file_operations_leaves_the_old_or_the_new(faults, tmp_path, kind):
    artefact, kills, code = kind(), 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        path = tmp_path / str(kills)
        path.mkdir()
        artefact.prepare(path)
        child = faults.fork(partial(write_until, kills + 1, artefact, path), tmp_path / "said.txt")
        code = child.wait()
        artefact.check(path)
        sweep_drafts(path, is_alone=False)  # as another process does that shares the folder
        assert not faults.drafts(path)
        artefact.check(path)
        kills += code == -signal.SIGKILL
    assert code == 0, child.said.read_text()
    assert kills >= artefact.least  # together more than fifty


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def claim_other_hash(path):
    manifest = json.loads(path.read_text())
    manifest["files"]["state.json"] = "0" * 64
    path.write_text(json.dumps(manifest))


DAMAGE = {
    "a byte flipped": lambda folder: flip(folder / "parameters.safetensors"),
    "file empty": lambda folder: (folder / "optimizer.safetensors").write_bytes(b""),
    "file missing": lambda folder: (folder / "state.json").unlink(),
    "manifest cut": lambda folder: (folder / "manifest.json").write_text('{"schema": 2, "fi'),
    "manifest says another hash": lambda folder: claim_other_hash(folder / "manifest.json"),
}


@pytest.fixture(scope="module")
def stopped(faults, options, straight, tmp_path_factory):
    """Give a run with checkpoints 2 and 4, stopped after step 4."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(StoppedError):
        train(faults.PLUGINS, *options, f"output.dir={folder}", stop_after=4)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_f11_a_damaged_newest_checkpoint_is_passed_over_and_kept(runs, straight, stopped, damage):
    shutil.copytree(stopped, runs.folder)
    damage(runs.folder / "checkpoints" / "step-00000004")
    child = runs.check_goes_on(straight)
    assert "passed over a damaged checkpoint" in child.said.read_text()
    assert "kept as damaged-step-00000004" in child.said.read_text()
    runs.check_intact(4, 6)
    assert (runs.folder / "checkpoints" / "damaged-step-00000004").is_dir()


def snapshot(folder):
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "log.txt")
    }


@pytest.mark.slow
def test_f12_when_all_checkpoints_are_damaged_nothing_is_touched(runs, stopped):
    shutil.copytree(stopped, runs.folder)
    for path in list_checkpoints(runs.folder / "checkpoints"):
        flip(path / "parameters.safetensors")
    before = snapshot(runs.folder)
    assert "all 2 checkpoints are damaged" in runs.check_told(runs.resume(), 4)
    assert snapshot(runs.folder) == before


def write_and_wait(path, ends):
    with writing(path) as draft:
        draft.write_bytes(b"half")
        os.read(ends[0], 1)


@pytest.mark.slow
def test_f13_leftovers_of_dead_processes_are_swept_and_work_of_live_ones_is_not(
    faults, runs, straight, stopped, tmp_path
):
    shutil.copytree(stopped, runs.folder)
    (runs.folder / "checkpoints" / ".sdtune-0123.tmp").mkdir()
    shared = tmp_path / "cache" / "latents"
    ends = os.pipe()
    works = {name: partial(write_and_wait, shared / name, ends) for name in ("dead", "live")}
    dead, live = (faults.fork(work, tmp_path / name) for name, work in works.items())
    wait_for(lambda: len(faults.drafts(shared)) == 2)
    dead.kill(0)
    ShardStore(tmp_path / "cache" / "latents")
    assert len(faults.drafts(shared)) == 1
    runs.check_goes_on(straight)
    os.write(ends[1], b"x")
    assert live.wait() == 0
    assert (shared / "live").read_bytes() == b"half"


def wait_for(is_so, at_most_s=60.0):
    end = time.monotonic() + at_most_s
    while not is_so() and time.monotonic() < end:
        time.sleep(0.002)
