import json

import pytest
import torch

from sdtune.errors import ModelError, PlatformError
from sdtune.train.saving.checkpoint import (
    Checkpoint,
    Position,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)


def make(step):
    position = Position(
        step=step,
        dataset="d",
        model="m",
        loss_average=(0.1 + 0.2, 3.0),
        optimizer={"a/step": 3},
        scaler={},
    )
    shared = torch.arange(4.0)
    return Checkpoint(
        parameters={"a": torch.full((2, 3), float(step)).t(), "b": torch.randn(3).bfloat16()},
        optimizer={"a/m": shared, "b/m": shared},
        position=position,
    )


def test_loading_gives_back_every_bit(tmp_path):
    saved = make(3)
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved, keep=2))
    assert loaded.position == saved.position
    assert all(torch.equal(loaded.parameters[name], saved.parameters[name]) for name in ("a", "b"))
    assert all(torch.equal(loaded.optimizer[name], saved.optimizer[name]) for name in ("a/m", "b/m"))


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000010"]


def test_saving_a_step_again_keeps_it(tmp_path):
    for _ in range(2):
        save_checkpoint(tmp_path, make(5), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000005"]


def _flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _claim_other_hash(path):
    manifest = json.loads(path.read_text())
    manifest["files"]["state.json"] = "0" * 64
    path.write_text(json.dumps(manifest))


DAMAGE = {
    "a byte flipped": lambda folder: _flip(folder / "parameters.safetensors"),
    "file empty": lambda folder: (folder / "optimizer.safetensors").write_bytes(b""),
    "file missing": lambda folder: (folder / "state.json").unlink(),
    "manifest cut": lambda folder: (folder / "manifest.json").write_text('{"schema": 1, "fi'),
    "manifest says another hash": lambda folder: _claim_other_hash(folder / "manifest.json"),
    "manifest missing": lambda folder: (folder / "manifest.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path, damage):
    save_checkpoint(tmp_path, make(1), keep=2)
    damage(save_checkpoint(tmp_path, make(2), keep=2))
    checkpoint, damaged = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint.position.step == 1
    assert len(damaged) == 1
    assert "step-00000002" in damaged[0]


def test_no_fresh_start_when_all_are_damaged(tmp_path):
    _flip(save_checkpoint(tmp_path, make(1), keep=2) / "state.json")
    with pytest.raises(ModelError, match="all 1 checkpoints are damaged"):
        latest_checkpoint(tmp_path)
    assert len(list_checkpoints(tmp_path)) == 1


def test_a_run_without_checkpoints_has_none(tmp_path):
    assert latest_checkpoint(tmp_path / "none") == (None, [])


def test_a_failed_save_leaves_the_earlier_one_and_no_litter(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make(1), keep=2)

    def full(folder, _):
        (folder / "parameters.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sdtune.train.saving.checkpoint._write", full)
    with pytest.raises(PlatformError, match="No space left"):
        save_checkpoint(tmp_path, make(2), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_damaged_one_is_renamed_and_neither_counted_nor_removed(tmp_path):
    save_checkpoint(tmp_path, make(1), keep=2)
    _flip(save_checkpoint(tmp_path, make(2), keep=2) / "state.json")
    _, damaged = latest_checkpoint(tmp_path)
    assert "kept as damaged-step-00000002" in damaged[0]
    for step in (2, 3, 4):
        save_checkpoint(tmp_path, make(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000004"]
    assert (tmp_path / "damaged-step-00000002").is_dir()


def test_a_second_damaged_one_of_a_step_has_a_name_of_its_own(tmp_path):
    for _ in range(2):
        save_checkpoint(tmp_path, make(1), keep=2)
        _flip(save_checkpoint(tmp_path, make(2), keep=2) / "state.json")
        latest_checkpoint(tmp_path)
    assert {path.name for path in tmp_path.glob("damaged*")} == {"damaged-step-00000002", "damaged-step-00000002-1"}


def test_a_damaged_one_that_is_saved_again_is_kept_aside(tmp_path):
    _flip(save_checkpoint(tmp_path, make(1), keep=2) / "state.json")
    load_checkpoint(save_checkpoint(tmp_path, make(1), keep=2))
    assert (tmp_path / "damaged-step-00000001").is_dir()


def test_an_old_one_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch, caplog):
    save_checkpoint(tmp_path, make(1), keep=1)

    def refuse(path):
        raise PlatformError("no")

    monkeypatch.setattr("sdtune.train.saving.checkpoint.remove_folder", refuse)
    save_checkpoint(tmp_path, make(2), keep=1)
    assert "an old checkpoint stays: no" in caplog.text
