"""Prior preservation in whole runs: what is logged, weighed and repeated."""

import json

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
from sdtune.errors import StoppedError
from sdtune.export.container import read_metadata
from sdtune.testing.images import write_images
from sdtune.testing.models import open_tiny_sd1
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.method import Method
from sdtune.train.planning.plan import make_plan
from sdtune.train.step.forward import StepInputs, TrainStep

PLUGINS = [sdtune_lora]


class _Plain(Method):
    kind = "lora"

    def attach(self, model, seed):
        raise NotImplementedError

    export = attach


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return tiny_sd1(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "data" / "2_zwx dog", 3, sizes=((64, 64), (96, 48)), caption="a photo of a zwx dog")
    write_images(folder / "reg" / "1_dog", 7, sizes=((64, 64), (96, 48)), caption=None)
    return folder


@pytest.fixture
def options(model_path, folder):
    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model_path}",
            f"data.path={folder / 'data'}",
            f"regularization.path={folder / 'reg'}",
            'regularization.prompt="a photo of a dog"',
            "data.resolution=64",
            "data.cache.latents=ram",
            f"output.dir={output}",
            "output.name=dog",
            "train.epochs=2",
            "train.batch_size=2",
            "train.lr=1e-2",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            "save.dtype=fp32",
            *more,
        ]

    return make


def lines(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def inputs(weights, order):
    generator = torch.Generator().manual_seed(3)
    mean, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    return StepInputs(
        pixels=None,
        mean=mean[order],
        std=torch.zeros(2, 4, 8, 8),
        posterior_noise=torch.zeros(2, 4, 8, 8),
        noise=noise[order],
        timesteps=torch.tensor([100, 700])[order],
        captions=tuple(["a zwx dog", "a dog"][place] for place in order),
        cond=None,
        weights=torch.tensor(weights)[order],
    )


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_loss_is_the_mean_of_weighted_samples_whatever_their_order(model_path, order):
    model = open_tiny_sd1(model_path)
    step = TrainStep(model, _Plain(None))
    parameters = list(model.unfreeze("unet").values())

    def loss_and_gradient(weights):
        loss = step(inputs(weights, order))[0].sum() / 2
        return loss, torch.autograd.grad(loss, parameters)

    (both, found), (instance, own), (prior, other) = map(loss_and_gradient, ([1.0, 0.5], [1.0, 0.0], [0.0, 1.0]))
    assert both.item() == pytest.approx((instance + 0.5 * prior).item(), abs=1e-6)
    expected = [a + 0.5 * b for a, b in zip(own, other, strict=True)]
    torch.testing.assert_close(list(found), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_losses_of_subject_and_class_are_logged_apart(tmp_path, options):
    run = train(PLUGINS, *options(tmp_path / "out", "regularization.weight=0.5", "train.batch_size=100"))
    for line in lines(tmp_path / "out"):
        assert {"loss/instance", "loss/prior", "loss/diffusion"} <= line.keys()
    assert run.order.regularization_visits == run.index.visits == 6


@pytest.mark.slow
def test_without_regularization_nothing_is_split(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "out", "regularization.path=---", "train.epochs=1"))
    assert not {"loss/instance", "loss/prior"} & lines(tmp_path / "out")[0].keys()


@pytest.mark.slow
def test_a_step_without_class_images_logs_none(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "out", "train.batch_size=1", "train.epochs=1"))
    logged = lines(tmp_path / "out")
    assert all(("loss/instance" in line) != ("loss/prior" in line) for line in logged)
    assert sum("loss/prior" in line for line in logged) == 6


@pytest.mark.slow
def test_weighted_and_unweighted_losses_agree(tmp_path, options):
    train(PLUGINS, *options(tmp_path / "out", "regularization.weight=0.25", "train.batch_size=1", "train.epochs=1"))
    for line in lines(tmp_path / "out"):
        wanted = line.get("loss/instance", 0) + 0.25 * line.get("loss/prior", 0)
        assert line["loss"] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.slow
def test_resume_repeats_the_uninterrupted_run(tmp_path, options):
    more = ("regularization.weight_end=0.1", "train.epochs=3")
    train(PLUGINS, *options(tmp_path / "whole", *more))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "parts", *more), stop_after=7)
    resume_training(PLUGINS, tmp_path / "parts")
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in lines(tmp_path / "parts")]
    assert lines(tmp_path / "whole")[-1]["images_seen"] == lines(tmp_path / "parts")[-1]["images_seen"] == 36
    one, other = (load_file(tmp_path / name / "exports" / "dog.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_file_and_the_plan_tell_of_it_apart(tmp_path, options):
    run = train(PLUGINS, *options(tmp_path / "out", "regularization.weight=0.5", "train.epochs=1"))
    metadata = read_metadata(tmp_path / "out" / "exports" / "dog.safetensors")
    assert (metadata["ss_num_train_images"], metadata["ss_num_reg_images"]) == ("6", "7")
    assert json.loads(metadata["ss_reg_dataset_dirs"]) == {"1_dog": {"n_repeats": 1, "img_count": 7}}
    assert json.loads(metadata["ss_dataset_dirs"]) == {"2_zwx dog": {"n_repeats": 2, "img_count": 3}}
    assert metadata["ss_prior_loss_weight"] == "0.5"
    assert json.loads(metadata["ss_tag_frequency"]) == {"2_zwx dog": {"a photo of a zwx dog": 3}}
    assert run.trigger() == "a photo of a zwx dog"
    facts = make_plan(run).facts
    assert facts["images"].startswith("3 (")
    assert facts["regularization"] == ("7 (regularization/1_dog: 7 x 1 repeats), 6 visits an epoch in turn, weight 0.5")
