"""Hypernetworks in the one loop, with what the core offers."""

import hashlib
import json

import pytest
import torch

import sdtune_hypernetwork
from sdtune.api import SdtuneError
from sdtune.testing.images import write_images
from sdtune.testing.learning import learn
from sdtune.testing.runner import resume_training, train
from sdtune.testing.webui import load_like_webui

PLUGINS = [sdtune_hypernetwork]
pytestmark = pytest.mark.slow


@pytest.fixture
def run(model, model_path, tmp_path):
    """Train two steps on two pictures, and give losses and the file."""
    del model  # writes the file
    images = tmp_path / "images"
    write_images(images, 2)

    def run(name, *overrides, stop_after=None):
        options = ["method=hypernet", f"model.path={model_path}", f"data.path={images}", "output.name=zwx"]
        options += [
            f"output.dir={tmp_path / name}",
            "data.resolution=64",
            "train.lr=1e-2",
            "train.steps=3",
            "log.tensorboard=false",
        ]
        train(PLUGINS, *options, "hypernetwork.activation=relu", *overrides, stop_after=stop_after)
        return results(tmp_path / name)

    return run


def results(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)]
    return losses, load_like_webui(folder / "exports" / "zwx.pt")


def tensors(content):
    return {
        f"{width}.{side}.{name}": tensor
        for width in content
        if isinstance(width, int)
        for side, state in zip("kv", content[width], strict=True)
        for name, tensor in state.items()
    }


def assert_equal(one, other):
    assert one[0] == other[0]
    first, second = tensors(one[1]), tensors(other[1])
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_resuming_changes_no_bit(run, tmp_path):
    options = ("hypernetwork.dropout=0,0.3,0", "data.flip=true", "train.ema.decay=0.9")
    straight = run("straight", *options)
    with pytest.raises(SdtuneError, match="resume"):
        run("stopped", *options, stop_after=1)
    torch.manual_seed(99)
    resume_training(PLUGINS, tmp_path / "stopped")
    assert_equal(results(tmp_path / "stopped"), straight)


def test_gradient_checkpointing_gives_nearly_the_same(run):
    straight, saved = run("straight"), run("saved", "train.gradient_checkpointing=true")
    assert saved[0] == pytest.approx(straight[0], rel=1e-4)  # gradients of shared networks are summed in another order


@pytest.mark.parametrize("kind", ["disk", "off"])
def test_caching_text_and_latents_changes_no_bit(kind, run, tmp_path):
    cached = run("ram", "data.cache.latents=ram", "data.cache.text=ram")
    options = (f"data.cache.latents={kind}", f"data.cache.text={kind}", f"data.cache.dir={tmp_path / 'cache'}")
    assert_equal(run(kind, *options), cached)


def test_bf16_is_near_float32(run):
    expected, found = run("fp32"), run("bf16", "train.precision=bf16")
    assert found[0] == pytest.approx(expected[0], rel=0.05)
    assert {tensor.dtype for tensor in tensors(found[1]).values()} == {torch.float32}


@pytest.mark.long
def test_learns_a_toy_it_has_never_seen(tmp_path):
    (spec,) = sdtune_hypernetwork.sdtune_methods()
    learned = learn(PLUGINS, tmp_path, "method=hypernetwork", "train.threads=1", *spec.demo)
    assert learned.before < 0.2
    assert learned.after > 0.5
    assert learned.kept >= 0.5


def test_webui_goes_on_with_the_optimizer_of_its_own_file(run, tmp_path):
    run("run", "hypernetwork.save_optimizer=true")
    file, sidecar = (tmp_path / "run" / "exports" / f"zwx{suffix}" for suffix in (".pt", ".pt.optim"))
    state = load_like_webui(sidecar)
    assert state["optimizer_name"] == "AdamW"
    assert state["hash"] == hashlib.sha256(file.read_bytes()).hexdigest()[:10]
    networks = [values for key, pair in load_like_webui(file).items() if isinstance(key, int) for values in pair]
    optimizer = torch.optim.AdamW([torch.nn.Parameter(value) for values in networks for value in values.values()])
    optimizer.load_state_dict(state["optimizer_state_dict"])
    assert all(own["exp_avg"].shape == parameter.shape for parameter, own in optimizer.state.items())
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert [delivered["name"] for delivered in facts["files"]] == [file.name]
