"""Memory that is used up, in every place where it can be (fault row F30)."""

import weakref

import pytest
import torch

import sdtune_lora
from sdtune.errors import OutOfMemoryError
from sdtune.models.sd import StableDiffusion
from sdtune.testing.runner import command, train
from sdtune.train.step.forward import TrainStep

PLUGINS = [sdtune_lora]
pytestmark = pytest.mark.slow
NO_MEMORY = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    "python": MemoryError(),
}


def raiser(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY.keys())
def test_f30_a_step_without_memory_ends_with_three_settings(tmp_path, small_run, monkeypatch, error, capsys):
    monkeypatch.setattr(TrainStep, "forward", raiser(error))
    assert command(PLUGINS, "train", *small_run(tmp_path / "run", "train.batch_size=2")) == 7
    said = capsys.readouterr().err
    assert "memory is used up in step 1, with 2 images of 64x64; try train.gradient_checkpointing=true" in said
    assert "or train.batch_size=1 train.gradient_accumulation=2" in said
    assert "or train.precision=bf16 (saves" in said
    assert "Traceback" not in said


def test_f30_a_real_allocation_that_fails_is_recognised(tmp_path, small_run, monkeypatch):
    monkeypatch.setattr(TrainStep, "forward", lambda *_: torch.empty(2**50))
    with pytest.raises(OutOfMemoryError, match="memory is used up in step 1"):
        train(PLUGINS, *small_run(tmp_path / "run"))


def test_f30_the_dry_step_finds_it_before_anything_else(tmp_path, small_run, monkeypatch):
    monkeypatch.setattr(TrainStep, "forward", raiser(NO_MEMORY["gpu"]))
    with pytest.raises(OutOfMemoryError, match="by the largest batch, 2 images of 64x64, tried before step 1"):
        train(PLUGINS, *small_run(tmp_path / "run", "train.batch_size=2", "train.dry_step=true"))


def test_f30_caches_without_memory_name_what_makes_them_smaller(tmp_path, small_run, monkeypatch):
    monkeypatch.setattr(StableDiffusion, "encode_images", raiser(NO_MEMORY["gpu"]))
    settings = r"data\.cache\.vae_batch_size=1 .*train\.precision=bf16 .*data\.resolution=48 "
    with pytest.raises(OutOfMemoryError, match=rf"while captions and images are encoded; try {settings}"):
        train(PLUGINS, *small_run(tmp_path / "run", "data.cache.vae_batch_size=4"))


def test_f30_memory_used_up_elsewhere_has_the_same_exit_code(tmp_path, small_run, monkeypatch, capsys):
    monkeypatch.setattr("sdtune.train.planning.fitting.assemble", raiser(torch.OutOfMemoryError("CUDA out of memory.")))
    assert command(PLUGINS, "train", *small_run(tmp_path / "run")) == 7
    assert "error: memory is used up: CUDA out of memory.; close other programs" in capsys.readouterr().err


def test_f30_a_picture_without_memory_is_one_warning(tmp_path, small_run, monkeypatch, caplog):
    held = []

    def fail(*_):
        picture = torch.zeros(1)
        held.append(weakref.ref(picture))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(StableDiffusion, "decode_latents", fail)
    previews = ("preview.prompts=[a thing]", "preview.steps=1", "preview.every_steps=2")
    train(PLUGINS, *small_run(tmp_path / "run", *previews))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["memory is used up by PreviewObserver; it is switched off, the training goes on"]
    assert [picture() for picture in held] == [None]
