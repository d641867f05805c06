"""Numbers that are not finite, and losses that jump (fault rows F27, F28, F29, F31)."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.data.caches.shards import read_shard
from sdtune.data.caches.tensor_store import list_shards
from sdtune.errors import DataError, NumericsError, StoppedError
from sdtune.models.base import Posterior
from sdtune.testing.runner import resume_training, train
from sdtune.train.saving.checkpoint import list_checkpoints
from sdtune.train.step.forward import TrainStep
from sdtune.train.watching.observers import Observer

PLUGINS = [sdtune_lora]
pytestmark = pytest.mark.slow


class Watcher:
    """A plugin that hands one observer to a run."""

    def __init__(self, observer):
        self.observer = observer

    @sdtune_lora.hookimpl
    def sdtune_observers(self, run):
        return [self.observer]


def weights(output, number=-1):
    """Give every tensor of a checkpoint, the newest unless told: parameters, the optimizer's, averages."""
    folder = list_checkpoints(output / "checkpoints")[number]
    return {
        f"{file.stem}/{name}": value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()
    }


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def distort(monkeypatch):
    """Multiply the losses (B,) of given forwards, counted from 1, by a factor."""

    def install(factors):
        forward, calls = TrainStep.forward, []

        def distorted(self, inputs):
            losses, terms = forward(self, inputs)
            calls.append(inputs)
            return losses * factors.get(len(calls), torch.tensor(1.0)), terms

        monkeypatch.setattr(TrainStep, "forward", distorted)

    return install


class InfiniteGradients(Observer):
    """Spoils the gradients of one block, in the backward passes named, counted from 1."""

    def __init__(self, backwards, block="unet.down_blocks.1."):
        self.backwards, self.block, self.seen = backwards, block, 0

    def on_start(self, run, step):
        parameters = run.parameters()
        name = next(name for name in parameters if name.startswith(self.block))
        parameters[name].register_hook(self.spoil)

    def spoil(self, gradient):
        self.seen += 1
        return gradient * torch.inf if self.seen in self.backwards else gradient


def refused(output, options, plugins=PLUGINS):
    with pytest.raises(NumericsError) as found:
        train(plugins, *options)
    return str(found.value), json.loads((output / "nonfinite-step-5.json").read_text())


def test_f27_nan_in_one_sample_names_it_and_keeps_the_step_before(tmp_path, small_run, distort):
    more = ("train.batch_size=2", "train.ema.decay=0.5")
    with pytest.raises(StoppedError):
        train(PLUGINS, *small_run(tmp_path / "good", *more), stop_after=4)
    distort({5: torch.tensor([torch.nan, 1.0])})
    message, report = refused(tmp_path / "run", small_run(tmp_path / "run", *more))
    guilty = report["samples"][0]["id"]
    assert f"the loss of step 5 is nan; from {guilty};" in message
    assert report["samples"][1]["id"] not in message
    assert "the state of step 4 is saved" in message
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000004"]
    assert same(weights(tmp_path / "run"), weights(tmp_path / "good"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["exit_code"] == 6


def test_f27_an_infinite_gradient_names_its_block(tmp_path, small_run):
    plugins = [*PLUGINS, Watcher(InfiniteGradients({5}))]
    message, report = refused(tmp_path / "run", small_run(tmp_path / "run"), plugins)
    assert "the gradient norm of step 5 is " in message
    assert "gradients are not finite in unet.down_blocks.1;" in message
    norms = report["gradient_norms"]
    assert [name for name, norm in norms.items() if isinstance(norm, str)] == ["unet.down_blocks.1"]
    assert set(report["samples"][0]) == {"id", "timestep", "loss"}


def test_f27_an_infinite_gradient_is_not_hidden_by_clipping_elements(tmp_path, small_run):
    plugins = [*PLUGINS, Watcher(InfiniteGradients({1}))]
    with pytest.raises(NumericsError, match="the gradient norm of step 1"):
        train(plugins, *small_run(tmp_path / "run", "train.max_grad_value=1"))


def test_f27_a_run_stopped_by_nan_goes_on_as_if_it_had_not_been(tmp_path, small_run, distort, monkeypatch):
    train(PLUGINS, *small_run(tmp_path / "straight"))
    with monkeypatch.context():
        distort({5: torch.tensor(torch.nan)})
        refused(tmp_path / "run", small_run(tmp_path / "run"))
    monkeypatch.undo()
    resume_training(PLUGINS, tmp_path / "run")
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "run"))


def test_f27_weights_that_are_not_finite_are_never_saved(tmp_path, small_run):
    class Spoil(Observer):
        def on_step(self, run, report):
            if report.step == 6:
                with torch.no_grad():
                    next(iter(run.parameters().values())).fill_(torch.nan)

    plugins = [*PLUGINS, Watcher(Spoil())]
    with pytest.raises(NumericsError, match=r"step 6 left weights that are not finite in unet\.down_blocks\.0"):
        train(plugins, *small_run(tmp_path / "run", "save.every_steps=5"))
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000005"]


FP16 = ("train.precision=fp16", "train.schedule.name=linear", "train.ema.decay=0.9", "train.ema.power=0.67")


@pytest.fixture
def half_on_the_cpu(monkeypatch):
    """Let fp16 runs compute in float32, so that only the scaler is tried, and fast."""
    monkeypatch.setattr("sdtune.train.assembly.assembling.compute_dtype", lambda *_: torch.float32)


def test_f28_three_overflows_in_a_row_are_passed_over(tmp_path, small_run, logged, half_on_the_cpu, caplog):
    plugins = [*PLUGINS, Watcher(InfiniteGradients({2, 3, 4}))]
    train(plugins, *small_run(tmp_path / "run", *FP16, "save.every_steps=1", "save.keep=9"))
    assert logged(tmp_path / "run", "skipped_steps") == [0, 1, 2, 3, 3, 3]
    assert [same(weights(tmp_path / "run", 0), weights(tmp_path / "run", n)) for n in (1, 2, 3, 4)] == [True] * 3 + [
        False
    ]
    rates = logged(tmp_path / "run", "lr/unet")
    assert rates[1] == rates[2] == rates[3] == rates[4] > rates[5]  # the rate of step 2 until it is applied
    assert logged(tmp_path / "run", "grad_norm")[1:4] == [None, None, None]
    assert "3 of 6 steps were passed over" in caplog.text


@pytest.mark.parametrize("stop", [2, 4])
def test_f28_a_run_with_overflows_resumes_to_the_last_bit(tmp_path, small_run, logged, half_on_the_cpu, stop):
    def plugins(done=0):
        return [*PLUGINS, Watcher(InfiniteGradients({2 - done, 3 - done}))]

    train(plugins(), *small_run(tmp_path / "straight", *FP16))
    with pytest.raises(StoppedError):
        train(plugins(), *small_run(tmp_path / "run", *FP16), stop_after=stop)
    resume_training(plugins(stop), tmp_path / "run")
    for column in ("loss", "lr/unet", "skipped_steps"):
        assert logged(tmp_path / "straight", column) == logged(tmp_path / "run", column)
    assert same(weights(tmp_path / "straight"), weights(tmp_path / "run"))


def test_f28_twenty_five_overflows_in_a_row_end_the_run(tmp_path, small_run, half_on_the_cpu):
    plugins = [*PLUGINS, Watcher(InfiniteGradients(set(range(1, 99))))]
    with pytest.raises(NumericsError, match=r"step 25 is (inf|nan), after 24 steps passed over in a row"):
        train(plugins, *small_run(tmp_path / "run", *FP16, "train.steps=40"))
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000024"]


def test_f29_every_picture_that_the_vae_cannot_encode_is_named(tmp_path, small_run, monkeypatch):
    from sdtune.models.sd import StableDiffusion

    encode, saved = StableDiffusion.encode_images, []

    def spoiled(self, pixels):
        posterior = encode(self, pixels)
        saved.append(posterior)
        return Posterior(mean=posterior.mean * torch.nan, std=posterior.std) if len(saved) != 2 else posterior

    monkeypatch.setattr(StableDiffusion, "encode_images", spoiled)
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as found:
        train(PLUGINS, *small_run(tmp_path / "run", "data.cache.latents=disk", f"data.cache.dir={cache}"))
    assert [problem.message.rpartition("/")[2] for problem in found.value.problems] == ["00.png", "02.png", "03.png"]
    assert [len(read_shard(path).index) for path in list_shards(cache / "latents")] == [1]


SPIKE = ("train.steps=13", "train.lr=1e-6")


def test_f31_a_loss_a_hundred_times_the_usual_names_its_images(tmp_path, small_run, distort, logged, caplog):
    distort({12: torch.tensor(1e4)})
    train(PLUGINS, *small_run(tmp_path / "run", *SPIKE))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert re.fullmatch(r"the loss of step 12 is \S+, \d{4,5} times the average; trained on 0\d\.png#0", warnings[0])
    assert warnings[0] in (tmp_path / "run" / "log.txt").read_text()
    assert logged(tmp_path / "run", "step")[-1] == 13


def test_f31_a_run_that_is_to_stop_at_a_spike_keeps_the_step_before(tmp_path, small_run, distort):
    distort({12: torch.tensor(1e4)})
    with pytest.raises(
        NumericsError, match=r"the loss of step 12 is .* times the average; .*state of step 11 is saved"
    ):
        train(PLUGINS, *small_run(tmp_path / "run", *SPIKE, "watch.stop_on_spike=true"))
    assert (tmp_path / "run" / "spike-step-12.json").exists()
    assert [path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000011"]
