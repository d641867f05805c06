"""Optimizers, schedules and rates in whole runs on a tiny model."""

import json
from importlib.util import find_spec

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import sdtune_lora
from sdtune.config.optimizers import OPTIMIZERS
from sdtune.errors import ConfigError, StoppedError
from sdtune.testing.images import write_images
from sdtune.testing.runner import resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.planning.plan import make_plan
from sdtune.train.saving.checkpoint import list_checkpoints

PLUGINS = [sdtune_lora]
# One of each kind; tests/train/update/test_optimizers.py has all.
NAMES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            find_spec(OPTIMIZERS[name].target.partition(".")[0]) is None,
            reason=f"{OPTIMIZERS[name].package} is not installed",
        ),
    )
    for name in ("adafactor", "muon", "paged_adamw8bit", "prodigy", "prodigy_plus", "dadapt_adam", "adamw_schedulefree")
]
# bitsandbytes tells that it pages nothing on a CPU.
pytestmark = pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    model = tiny_sd1(root / "model")
    write_images(root / "data" / "1_thing", 2, sizes=((64, 64),))

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={model}",
            f"data.path={root / 'data'}",
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


def lines(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights(output):
    return load_file(list_checkpoints(output / "checkpoints")[-1] / "parameters.safetensors")


def exported(output):
    return load_file(output / "exports" / "thing.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def of_optimizer(name):
    rate = "1e-2" if OPTIMIZERS[name].rate == "given" else "1"
    curve = "constant" if OPTIMIZERS[name].averages or OPTIMIZERS[name].rate == "own" else "cosine"
    matrices = ["train.rates=[{match: 're:\\.(conv|proj)', lr: 0}]"] if name == "muon" else []
    return [f"train.optimizer.name={name}", f"train.lr={rate}", f"train.schedule.name={curve}", *matrices]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_a_run_with_any_optimizer_resumes_bit_for_bit(tmp_path, options, name):
    more = of_optimizer(name)
    train(PLUGINS, *options(tmp_path / "straight", *more))
    with pytest.raises(StoppedError):
        train(PLUGINS, *options(tmp_path / "stopped", *more), stop_after=3)
    resume_training(PLUGINS, tmp_path / "stopped")
    for read in (weights, exported):
        assert same(read(tmp_path / "straight"), read(tmp_path / "stopped"))
    straight, stopped = (
        [(line["loss"], line["lr/unet"]) for line in lines(tmp_path / run)] for run in ("straight", "stopped")
    )
    assert straight == stopped


def test_blocks_have_the_rates_asked_for(tmp_path, options):
    rules = (
        "train.rates=[{match: 'unet.down_blocks.*', scale: 0.5}, {match: 'unet.mid_block.*', lr: 1e-4},"
        " {match: '*.attn2.*', lr: 0}]"
    )
    train(PLUGINS, *options(tmp_path / "out", rules, "train.steps=2", "train.schedule.name=linear"))
    first, second = (
        {name: rate for name, rate in line.items() if name.startswith("lr/")} for line in lines(tmp_path / "out")
    )
    assert first == {"lr/unet": 1e-2, "lr/unet unet.down_blocks.*": 5e-3, "lr/unet unet.mid_block.*": 1e-4}
    assert second == {name: rate / 2 for name, rate in first.items()}
    assert not any(".attn2." in name for name in weights(tmp_path / "out"))


@pytest.mark.slow
def test_a_part_with_rate_0_is_told_to_be_frozen(tmp_path, options):
    rule = "train.rates=[{match: 'text_encoder.*', lr: 0}]"
    run = train(PLUGINS, *options(tmp_path / "out", "lora.text_encoder=true", rule, "train.steps=1"))
    text = "text_encoder is frozen, its learning rate is 0; nothing of the text encoder is trained"
    assert f"note: {text}" in make_plan(run).render()
    assert run.texts is not None  # its output is cached, as of any part that is not trained


def test_an_optimizer_that_finds_its_rate_is_refused_with_the_usual_one(tmp_path, options):
    with pytest.raises(ConfigError, match="adafactor_auto finds the learning rate itself"):
        train(PLUGINS, *options(tmp_path / "out", "train.optimizer.name=adafactor_auto"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_names_the_optimizer_as_kohyas_scripts_do(tmp_path, options):
    more = ("train.optimizer.weight_decay=0.1", "train.schedule.name=cosine", "train.schedule.warmup=50%")
    train(PLUGINS, *options(tmp_path / "out", *more, "train.steps=2"))
    with safe_open(tmp_path / "out" / "exports" / "thing.safetensors", "pt") as file:
        entries = file.metadata()
    assert entries["ss_optimizer"] == "torch.optim.adamw.AdamW(weight_decay=0.1)"
    assert (entries["ss_lr_scheduler"], entries["ss_lr_warmup_steps"]) == ("cosine", "1")


@pytest.mark.slow
def test_files_have_the_average_of_a_schedule_free_optimizer_and_checkpoints_the_live_weights(tmp_path, options):
    pytest.importorskip("schedulefree")
    more = of_optimizer("adamw_schedulefree")
    previews = ("preview.prompts=[a thing]", "preview.steps=1", "preview.every_steps=2", "save.every_epochs=1")
    train(PLUGINS, *options(tmp_path / "plain", *more))
    train(PLUGINS, *options(tmp_path / "watched", *more, *previews))
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "watched"))
    assert same(exported(tmp_path / "plain"), exported(tmp_path / "watched"))
    live, average = weights(tmp_path / "plain"), exported(tmp_path / "plain")
    checkpoint = list_checkpoints(tmp_path / "plain" / "checkpoints")[-1]
    saved = load_file(checkpoint / "optimizer.safetensors")
    name = next(name for name in live if name.endswith("attn1.to_q.lora_up"))
    # The parameters are y = (1 - beta) z + beta x (Defazio et al. 2024, equation 1); files have x.
    x = (live[name] - (1 - 0.9) * saved[f"{name}/z"]) / 0.9
    key = "lora_" + name.removesuffix(".lora_up").replace(".", "_") + ".lora_up.weight"
    assert torch.allclose(x, average[key], atol=1e-7)
    assert not torch.equal(live[name], average[key])
