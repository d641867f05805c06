"""Held-out images in whole runs: the grid, what is left untouched, the best file, resume, and the early end."""

import json
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
import sdtune_textual_inversion
from sdtune.config.compose import load
from sdtune.diffusion.objective import add_noise
from sdtune.errors import ConfigError, StoppedError
from sdtune.export.container import read_metadata
from sdtune.models.modes import evaluating
from sdtune.plugins import Registry
from sdtune.randomness import derive_generator
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_model, tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.inputs.source import make_held_out_builder, open_source
from sdtune.train.planning.plan import make_plan
from sdtune.train.run import run_folder
from sdtune.train.saving.checkpoint import list_checkpoints
from sdtune.train.validation.measuring import Validator
from sdtune.train.watching.observers import Observer

PLUGINS = [sdtune_lora, sdtune_textual_inversion]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    paths = write_images(folder / "data", 7, sizes=((64, 64), (96, 48)))
    (folder / "val").mkdir()
    for path in paths[3:]:
        for file in (path, path.with_suffix(".txt")):
            file.rename(folder / "val" / file.name)
    return folder


@pytest.fixture(scope="module")
def options(model, folders):
    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={folders / 'data'}",
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=thing",
            "train.steps=4",
            "train.batch_size=2",
            "train.lr=1e-2",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


@pytest.fixture(scope="module")
def measured(folders):
    return [f"validation.path={folders / 'val'}", "validation.timesteps=2", "validation.every_steps=2"]


@pytest.fixture
def ready(tmp_path, options, measured):
    def ready(*more):
        registry = Registry.from_plugins(PLUGINS)
        loaded = load(registry, overrides=options(tmp_path / "out", *measured, *more))
        run = assemble(loaded, registry, run_folder(loaded.options))
        return run, open_source(run, preview_texts=(), on_progress=lambda *_: None)

    return ready


def lines(output, name="validation.jsonl"):
    found = [json.loads(line) for line in (output / name).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("time", "seconds")} for line in found]


def facts(output):
    return json.loads((output / "run.json").read_text())


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_is_that_of_a_plain_loop(ready):
    run, source = ready("train.batch_size=1")
    found = Validator(run, source).measure()
    record, place = run.held_out.index.images[1], run.held_out.placements[1]
    item = next(item for item in source_items(run) if item.record.digest == record.digest)
    mean, cond = source.latents.get([item]).mean, source.texts.get([record.caption])
    errors = []
    with evaluating(run.model):
        for number, timestep in enumerate((250, 750)):
            noise = torch.randn(mean.shape[1:], generator=derive_generator(0, "validation", record.digest, number))
            at = torch.tensor([timestep])
            answer = run.model.denoise(add_noise(run.model.schedule, mean, noise[None], at), at, cond)
            errors.append((answer - noise).square().mean().double())
    assert place.bucket.width // 8 == mean.shape[3]
    assert found.images[record.name] == pytest.approx(torch.stack(errors).mean().item(), rel=1e-6)
    assert found.loss == pytest.approx(sum(found.bins) / 2)


def source_items(run):
    return make_held_out_builder(run, None).latent_items()


@pytest.mark.slow
def test_measuring_repeats_itself_and_leaves_no_trace(ready):
    run, source = ready()
    run.model.train()
    modes = [module.training for module in run.model.modules()]
    state = torch.get_rng_state()
    validator = Validator(run, source)
    assert validator.measure() == validator.measure()
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [module.training for module in run.model.modules()]
    assert all(parameter.grad is None for parameter in run.parameters().values())


@pytest.mark.slow
def test_caches_flips_and_dropouts_change_nothing(ready):
    plain = Validator(*ready()).measure()
    more = ("data.cache.latents=off", "data.cache.text=off", "data.flip=true", "data.caption_dropout=0.9")
    assert Validator(*ready(*more, "data.shuffle_tags=true", "lora.dropout=0.5", "noise.offset=0.3")).measure() == plain


@pytest.mark.slow
def test_the_runs_own_loss_is_told_where_it_differs(ready):
    plain, weighted = (Validator(*ready(*more)).measure() for more in ((), ("loss.min_snr_gamma=1",)))
    assert plain.objective is None
    assert weighted.images == plain.images
    assert weighted.objective < weighted.loss


def test_nothing_held_out_cannot_be_measured(ready):
    run, source = ready("validation={}")
    with pytest.raises(ConfigError, match="no images are held out"):
        Validator(run, source)


@pytest.mark.slow
def test_the_plan_tells_of_it(ready):
    run, _ = ready()
    assert make_plan(run).facts["validation"].endswith("8 losses each time, 3 times")


@pytest.mark.slow
def test_another_method_and_family_are_measured(tmp_path, ready):
    for more in (["method=textual_inversion", "lora=---"], [f"model.path={tiny_model(tmp_path / 'xl', 'sdxl')}"]):
        found = Validator(*ready(*more)).measure()
        assert len(found.images) == 4
        assert found.loss > 0


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("lora.text_encoder=true", "lora.dropout=0.3", "data.cache.latents=off")])
def test_training_is_the_same_with_and_without(tmp_path, options, measured, more):
    train(PLUGINS, *options(tmp_path / "with", *measured, *more))
    train(PLUGINS, *options(tmp_path / "without", *more))
    names = ("with", "without")
    with_losses, without = ([line["loss"] for line in lines(tmp_path / name, "metrics.jsonl")] for name in names)
    assert with_losses == without
    assert same(weights(tmp_path / "with"), weights(tmp_path / "without"))


@pytest.mark.slow
def test_the_best_step_is_a_file_of_its_own(tmp_path, options, measured):
    out = tmp_path / "out"

    class Watch(Observer):
        said: ClassVar = []

        def on_validation(self, run, report):
            self.said.append(report.describe())

    class Plugin:
        @staticmethod
        @sdtune_lora.hookimpl
        def sdtune_observers(run):
            return [Watch()]

    train([*PLUGINS, Plugin], *options(out, *measured, "save.every_steps=2"))
    found, told = lines(out), facts(out)["validation"]
    assert [line["step"] for line in found] == [0, 2, 4]
    best = min(found[1:], key=lambda line: line["loss"])
    assert told["best"] == {"step": best["step"], "loss": best["loss"], "files": ["thing-best.safetensors"]}
    assert (told["images"], told["base"], told["last"]) == (4, found[0]["loss"], found[2]["loss"])
    assert read_metadata(out / "exports" / "thing-best.safetensors")["ss_steps"] == str(best["step"])
    assert [file["name"] for file in facts(out)["files"]] == ["thing.safetensors"]
    assert Watch.said[0].startswith("validation  base: loss ")
    assert Watch.said[1].endswith(f"(base {found[0]['loss']:.4f}, the best step)")


@pytest.mark.slow
def test_tensorboard_shows_it(tmp_path, options, measured):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(PLUGINS, *options(tmp_path / "out", *measured, "log.tensorboard=true"))
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("val/loss")]
    assert losses == pytest.approx([line["loss"] for line in lines(tmp_path / "out")])
    assert "val/loss_bin_1" in events.Tags()["scalars"]


AVERAGED = ("train.ema.decay=0.5", "validation.every_steps=1")


@pytest.fixture(scope="module")
def straight(options, measured, tmp_path_factory):
    """A run that nobody stopped, measured after each step."""
    folder = tmp_path_factory.mktemp("straight")
    train(PLUGINS, *options(folder, *measured, *AVERAGED))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0, 1, 2, 3])
def test_resume_measures_and_chooses_as_if_never_stopped(tmp_path, options, measured, straight, stop):
    stopped = tmp_path / "stopped"
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(stopped, *measured, *AVERAGED), stop_after=stop)
    resume_training(PLUGINS, stopped)
    assert lines(straight) == lines(stopped)
    assert facts(straight)["validation"] == facts(stopped)["validation"]
    assert same(*(load_file(folder / "exports" / "thing-best.safetensors") for folder in (straight, stopped)))


@pytest.mark.slow
def test_an_early_end_is_a_finished_run_and_resume_comes_to_it_too(tmp_path, options, measured):
    more = [*measured, "validation.every_steps=1", "validation.patience=2", "validation.min_delta=9", "train.steps=9"]
    run = train(PLUGINS, *options(tmp_path / "straight", *more))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "stopped", *more), stop_after=2)
    resume_training(PLUGINS, tmp_path / "stopped")
    told = facts(tmp_path / "straight")
    assert (told["state"], told["step"], run.timetable.steps) == ("done", 3, 3)
    assert told["validation"]["ended_early"] == (
        "ended early, after step 3: no improvement in 2 measurements (validation.patience)"
    )
    assert told["validation"] == facts(tmp_path / "stopped")["validation"]
    assert {"thing.safetensors", "thing-best.safetensors"} <= {path.name for path in run.folder.exports.iterdir()}


@pytest.mark.slow
def test_too_few_images_choose_no_best_step(tmp_path, options, measured):
    out = tmp_path / "out"
    train(PLUGINS, *options(out, *measured, "validation.most_images=2", "train.steps=1"))
    assert facts(out)["validation"]["best"] is None
    assert [path.name for path in (out / "exports").iterdir()] == ["thing.safetensors"]
    assert len(lines(out)) == 2


@pytest.mark.slow
def test_a_changed_validation_image_is_not_resumed(tmp_path, options, measured):
    write_images(tmp_path / "val", 9)
    for path in sorted((tmp_path / "val").iterdir())[:14]:
        path.unlink()
    more = [*measured, f"validation.path={tmp_path / 'val'}"]
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "out", *more), stop_after=0)
    (tmp_path / "val" / "08.txt").write_text("another")
    with pytest.raises(ConfigError, match="images or captions changed"):
        resume_training(PLUGINS, tmp_path / "out")
