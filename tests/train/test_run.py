"""Whole runs on a tiny model: what they leave behind, and that they repeat."""

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.errors import ConfigError, DataError, NumericsError, StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.saving.checkpoint import list_checkpoints

PLUGINS = [sdtune_lora]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "3_thing"
    write_images(folder, 3, sizes=((64, 64), (96, 48)))
    return folder.parent


@pytest.fixture(scope="module")
def options(model, images):
    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={images}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=thing",
            "train.steps=6",
            "train.lr=1e-2",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


def numbers(output, name):
    return [json.loads(line)[name] for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output):
    return [loss.hex() for loss in numbers(output, "loss")]


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_everything_in_its_folder(tmp_path, options):
    out = tmp_path / "out"
    train(PLUGINS, *options(out, "log.tensorboard=true", "preview.prompts=[a thing]", "preview.steps=2"))
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"config.yaml", "run.json", "metrics.jsonl", "log.txt", "grid.png", "exports/thing.safetensors"} <= found
    assert {"previews/step-00000000-00.png", "previews/step-00000006-00.png"} <= found
    assert any(name.startswith("tensorboard/events") for name in found)
    assert json.loads((out / "run.json").read_text())["state"] == "done"


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run(tmp_path, options):
    for name in ("one", "two"):
        train(PLUGINS, *options(tmp_path / name))
    assert losses(tmp_path / "one") == losses(tmp_path / "two")
    assert same(weights(tmp_path / "one"), weights(tmp_path / "two"))


@pytest.mark.slow
def test_another_seed_gives_another_run(tmp_path, options):
    for name, seed in (("one", 0), ("two", 1)):
        train(PLUGINS, *options(tmp_path / name, f"train.seed={seed}"))
    assert losses(tmp_path / "one") != losses(tmp_path / "two")


VARIANTS = {
    "plain": (),
    "accumulation": ("train.gradient_accumulation=2",),
    "dropout and schedule": ("lora.dropout=0.1", "train.schedule.name=cosine", "train.schedule.warmup=0.34"),
    "text encoder": ("lora.text_encoder=true",),
    "demo model": ("model.path=demo", "lora.text_encoder=true", "lora.conv_rank=2"),
    "8-bit": ("train.optimizer.name=adamw8bit", "lora.rank=64"),
    "bf16": ("train.precision=bf16",),
    "no caches": ("data.cache.latents=off", "data.cache.text=off", "data.flip=true", "data.caption_dropout=0.5"),
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def straight(request, options, tmp_path_factory):
    """A run that nobody stopped, and what it is trained with."""
    folder = tmp_path_factory.mktemp("straight")
    train(PLUGINS, *options(folder, *request.param))
    return folder, request.param


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.slow
def test_stopping_and_resuming_changes_no_bit(tmp_path, options, straight, stop):
    straight, variant = straight
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "stopped", *variant), stop_after=stop)
    torch.manual_seed(99)  # whatever the process did meanwhile
    resume_training(PLUGINS, tmp_path / "stopped")
    assert losses(straight) == losses(tmp_path / "stopped")
    assert same(weights(straight), weights(tmp_path / "stopped"))
    first, second = (folder / "exports" / "thing.safetensors" for folder in (straight, tmp_path / "stopped"))
    assert same(load_file(first), load_file(second))


@pytest.mark.slow
def test_resuming_a_finished_run_does_nothing(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "out"))
    before = (tmp_path / "out" / "run.json").stat().st_mtime_ns
    resume_training(PLUGINS, tmp_path / "out")
    assert (tmp_path / "out" / "run.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_stopping_before_the_first_step_starts_over(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "straight"))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "stopped"), stop_after=0)
    resume_training(PLUGINS, tmp_path / "stopped")
    assert losses(tmp_path / "straight") == losses(tmp_path / "stopped")


@pytest.mark.slow
def test_a_signal_saves_and_stops(tmp_path, options):
    class Interrupt:
        @staticmethod
        @sdtune_lora.hookimpl
        def sdtune_observers(run):
            from sdtune.train.watching.observers import Observer

            class Ask(Observer):
                def on_step(self, run, report):
                    if report.step == 2:
                        os.kill(os.getpid(), signal.SIGTERM)

            return [Ask()]

    with pytest.raises(StoppedError, match="stopped after step 2 of 6"):
        train([*PLUGINS, Interrupt], *options(tmp_path / "out"))
    assert [path.name for path in list_checkpoints(tmp_path / "out" / "checkpoints")] == ["step-00000002"]


@pytest.mark.slow
def test_two_batches_of_one_are_a_batch_of_two(tmp_path, options):
    write_images(tmp_path / "images", 2)
    both = (f"data.path={tmp_path / 'images'}", "train.lr=1e-5", "train.steps=3")  # both images are in every step
    pair = ("model.path=demo", *both)  # a trained model: the random one magnifies the order of sums a hundredfold
    train(PLUGINS, *options(tmp_path / "one", *pair, "train.batch_size=2"))
    train(PLUGINS, *options(tmp_path / "two", *pair, "train.gradient_accumulation=2"))
    assert numbers(tmp_path / "one", "loss") == pytest.approx(numbers(tmp_path / "two", "loss"), rel=1e-5)
    assert numbers(tmp_path / "one", "grad_norm") == pytest.approx(numbers(tmp_path / "two", "grad_norm"), rel=1e-4)


@pytest.mark.slow
def test_caches_change_no_bit(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "cached"))
    train(PLUGINS, *options(tmp_path / "direct", "data.cache.latents=off", "data.cache.text=off"))
    assert losses(tmp_path / "cached") == losses(tmp_path / "direct")


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "plain"))
    train(PLUGINS, *options(tmp_path / "checkpointed", "train.gradient_checkpointing=true"))
    plain, other = weights(tmp_path / "plain"), weights(tmp_path / "checkpointed")
    torch.testing.assert_close(plain, other, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_an_infinite_loss_stops_before_the_step(tmp_path, options):
    with pytest.raises(NumericsError, match=r"the (loss|gradient norm) of step \d is (nan|inf)"):
        train(PLUGINS, *options(tmp_path / "out", "train.lr=1000", "train.max_grad_norm=0", "save.every_steps=1"))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "out").values())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["exit_code"] == 6


@pytest.mark.slow
def test_changed_images_are_not_resumed(tmp_path, options):
    folder = tmp_path / "images"
    write_images(folder, 2)
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "out", f"data.path={folder}"), stop_after=2)
    (folder / "00.txt").write_text("another caption\n")
    with pytest.raises(ConfigError, match="images or captions changed"):
        resume_training(PLUGINS, tmp_path / "out")


def test_a_length_must_be_given(tmp_path, options):
    with pytest.raises(ConfigError, match="no length given; say how long: --steps"):
        train(PLUGINS, *options(tmp_path / "out", "train.steps=null"))


def test_nothing_is_left_of_a_run_that_cannot_start(tmp_path, options):
    with pytest.raises(DataError):
        train(PLUGINS, *options(tmp_path / "out", f"data.path={tmp_path / 'nowhere'}"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_epochs_are_exported(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "out", "train.steps=null", "train.epochs=2", "save.every_epochs=1"))
    names = sorted(path.name for path in (tmp_path / "out" / "exports").iterdir())
    assert names == ["thing-000001.safetensors", "thing.safetensors"]


@pytest.mark.slow
def test_the_run_ends_with_its_rates(tmp_path, options):
    run = train(PLUGINS, *options(tmp_path / "run", "train.steps=---", "train.lr='1e-2:2, 1e-3:4'"))
    assert run.timetable.steps == 4
    assert numbers(tmp_path / "run", "lr/unet") == [1e-2, 1e-2, 1e-3, 1e-3]


@pytest.mark.slow
def test_a_part_that_stopped_keeps_its_last_bit(tmp_path, options):
    more = ["lora.text_encoder=true", "lora.text_encoder_stop=0.5", "train.optimizer.weight_decay=0.1"]
    run = train(PLUGINS, *options(tmp_path / "run", *more, "save.every_steps=3", "save.keep=9"))
    first, last = (load_file(path / "parameters.safetensors") for path in list_checkpoints(run.folder.checkpoints))
    frozen = [name for name in first if name.startswith("text_encoder.")]
    assert frozen
    assert all(torch.equal(first[name], last[name]) for name in frozen)
    assert not all(torch.equal(first[name], last[name]) for name in first)
    assert numbers(tmp_path / "run", "lr/text_encoder")[3:] == [0, 0, 0]


@pytest.mark.slow
def test_files_hold_the_average_and_the_run_goes_on_with_the_last_step(tmp_path, options):
    run = train(PLUGINS, *options(tmp_path / "run", "train.ema.decay=0.5", "train.ema.export=both"))
    live = train(PLUGINS, *options(tmp_path / "live"))
    files = {path.name: load_file(path) for path in run.folder.exports.glob("*.safetensors")}
    plain = load_file(live.folder.exports / "thing.safetensors")
    assert sorted(files) == ["thing-live.safetensors", "thing.safetensors"]
    assert all(torch.equal(files["thing-live.safetensors"][name], plain[name]) for name in plain)
    assert not all(torch.equal(files["thing.safetensors"][name], plain[name]) for name in plain)


@pytest.mark.slow
def test_the_average_resumes_to_the_last_bit(tmp_path, options):
    whole = train(PLUGINS, *options(tmp_path / "whole", "train.ema.decay=0.9"))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "parts", "train.ema.decay=0.9"), stop_after=2)
    resume_training(PLUGINS, tmp_path / "parts")
    first = load_file(whole.folder.exports / "thing.safetensors")
    second = load_file(tmp_path / "parts" / "exports" / "thing.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_finished_file_lies_in_the_webui(tmp_path, options):
    webui = tmp_path / "webui"
    (webui / "models" / "Lora").mkdir(parents=True)
    train(PLUGINS, *options(tmp_path / "run", f"output.webui_dir={webui}", "train.steps=1"))
    assert (webui / "models" / "Lora" / "thing.safetensors").is_file()


def test_a_missing_webui_is_told_before_training(tmp_path, options):
    with pytest.raises(ConfigError, match="there is no folder"):
        train(PLUGINS, *options(tmp_path / "run", f"output.webui_dir={tmp_path / 'nowhere'}"))
    assert not (tmp_path / "run").exists()
