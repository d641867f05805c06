"""Forecasts of memory, disk and time, against what tensors, optimizers and runs really take."""

import json
from pathlib import Path

import pytest
import torch

import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_textual_inversion
from sdtune.config.compose import load
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.models import open_tiny
from sdtune.testing.runner import command, train
from sdtune.testing.tiny import tiny_model, tiny_sd1
from sdtune.train.assembly.assembling import assemble
from sdtune.train.needs.footprint import measure
from sdtune.train.needs.forecast import duration, make_forecast, size
from sdtune.train.planning.remeasure import saving
from sdtune.train.saving.folder import RunFolder

PLUGINS = [sdtune_lora]
REGISTRY = Registry.from_plugins(PLUGINS)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forecast")
    write_images(folder / "3_thing", 3, sizes=((64, 64),))
    (model := folder / "tiny").parent.mkdir(exist_ok=True)
    tiny_sd1(model)
    return [
        "method=lora",
        f"model.path={model}",
        f"data.path={folder}",
        "data.resolution=64",
        "train.steps=6",
        "lora.rank=2",
        "lora.text_encoder=false",
    ]


@pytest.fixture(scope="module")
def run(words, tmp_path_factory):
    return assemble(load(REGISTRY, overrides=words), REGISTRY, RunFolder(tmp_path_factory.mktemp("run") / "out"))


@pytest.fixture(scope="module")
def forecast(run, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SDTUNE_CACHE_DIR", str(tmp_path_factory.mktemp("no-times")))
        return make_forecast(run)


@pytest.mark.slow
def test_a_forecast_leaves_the_run_as_it_was(run):
    before = {name: (p.data_ptr(), p.requires_grad, p.grad) for name, p in run.model.named_parameters()}
    modes = [module.training for module in run.model.modules()]
    state = torch.get_rng_state()
    measure(run, uses_text_cache=True)
    assert {name: (p.data_ptr(), p.requires_grad, p.grad) for name, p in run.model.named_parameters()} == before
    assert [module.training for module in run.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not run.model.is_loaded("vae")


@pytest.mark.slow
def test_the_peak_is_the_largest_phase(forecast):
    assert forecast.peak.total == max(phase.total for phase in forecast.phases)
    assert forecast.peak.total == sum(forecast.peak.parts.values())


@pytest.mark.slow
def test_weights_are_those_that_are_loaded(run, forecast):
    module = run.model.part("unet")
    trained = {id(parameter) for parameter in run.parameters().values()}
    own = sum(p.numel() * 4 for p in module.parameters() if id(p) not in trained)
    assert forecast.phases[0].parts["unet"] == own


@pytest.mark.slow
def test_the_plan_tells_memory_disk_and_time(forecast):
    facts = forecast.facts()
    assert "while" in facts["memory"]
    assert facts["disk"].startswith("up to ")
    assert facts["time"].startswith("not known yet on this machine")


@pytest.mark.parametrize(("count", "text"), [(8_000, "8 kB"), (44_600_000, "45 MB"), (1_234_000_000, "1.23 GB")])
def test_bytes_are_spelt_in_the_unit_that_fits(count, text):
    assert size(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (180, "3 min"), (7500, "2 h 5 min")])
def test_durations_are_spelt_roughly(seconds, text):
    assert duration(seconds) == text


@pytest.mark.slow
def test_a_run_keeps_its_forecast_beside_what_was_real(words, tmp_path):
    out = tmp_path / "out"
    train(PLUGINS, *words, f"output.dir={out}", "log.forecast=true", "log.tensorboard=false")
    facts = json.loads((out / "run.json").read_text())
    assert facts["forecast"]["memory_bytes"] > 0
    assert facts["peak_memory_bytes"] > 0
    assert "memory: forecast " in (out / "log.txt").read_text()


@pytest.mark.slow
def test_the_disk_a_run_takes_is_below_the_forecast(words, tmp_path, monkeypatch):
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "out"
    options = ("log.forecast=true", "save.every_steps=2", "preview.prompts=[a thing]", "preview.steps=1")
    train(PLUGINS, *words, f"output.dir={out}", *options)
    forecast = json.loads((out / "run.json").read_text())["forecast"]["disk"]
    kinds = {"checkpoints": out / "checkpoints", "exports": out / "exports", "caches": tmp_path / "cache" / "latents"}
    for kind, folder in kinds.items():
        real = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        assert real < 1.5 * forecast[kind] + 20_000, kind


@pytest.mark.slow
def test_a_second_run_knows_its_time(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SDTUNE_CACHE_DIR", str(tmp_path / "cache"))
    train(PLUGINS, *words, f"output.dir={tmp_path / 'out'}", "log.forecast=true")
    assert command(PLUGINS, "plan", *words) == 0
    assert "(measured on this machine)" in capsys.readouterr().out
    assert command(PLUGINS, "plan", "--batch-size", "2", *words) == 0
    assert "(from a run at 64x64, 1 x 1)" in capsys.readouterr().out


def parts_of(words, tmp_path, *more):
    run = assemble(load(REGISTRY, overrides=[*words, *more]), REGISTRY, RunFolder(tmp_path / "out"))
    return make_forecast(run).phases[0].parts


@pytest.mark.slow
def test_packed_weights_are_counted_as_they_are(words, tmp_path):
    run = assemble(load(REGISTRY, overrides=[*words, "model.quantize=int8"]), REGISTRY, RunFolder(tmp_path / "out"))
    foretold = measure(run, uses_text_cache=False)
    assert foretold.packed > 0
    hollow = foretold.weights["text_encoder"]
    run.model.load("text_encoder")
    assert measure(run, uses_text_cache=False).weights["text_encoder"] == hollow


@pytest.mark.slow
def test_weights_in_16_bits_halve_what_is_trained(words, tmp_path):
    wide, narrow = (parts_of(words, tmp_path, f"train.weights={dtype}") for dtype in ("fp32", "bf16"))
    assert narrow["trained"] == wide["trained"] / 2
    assert narrow["optimizer"] == pytest.approx(wide["optimizer"] / 2, rel=0.01)


@pytest.mark.slow
def test_a_step_within_backward_keeps_no_gradients(words, tmp_path):
    words = [word for word in words if not word.startswith(("method", "lora"))] + ["method=dreambooth"]
    registry = Registry.from_plugins([sdtune_dreambooth])
    steps = []
    for fused in ("false", "true"):
        options = [*words, "train.max_grad_norm=0", f"train.fused_backward={fused}"]
        run = assemble(load(registry, overrides=options), registry, RunFolder(tmp_path / "out"))
        steps.append(measure(run, uses_text_cache=True).step)
    trained = sum(parameter.nbytes for parameter in run.parameters().values())
    assert steps[1] < steps[0] - trained / 2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_family_has_a_forecast(words, tmp_path, family):
    tiny_model(tmp_path / "tiny", family)
    forecast = parts_of(words, tmp_path, f"model.path={tmp_path / 'tiny'}")
    assert forecast["activations and gradients"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["textual_inversion", "hypernetwork", "dreambooth"])
def test_every_method_has_a_forecast(words, tmp_path, name):
    registry = Registry.from_plugins([sdtune_textual_inversion, sdtune_hypernetwork, sdtune_dreambooth])
    own = ["textual_inversion.token=zwx"] if name == "textual_inversion" else []
    options = [word for word in words if not word.startswith(("method", "lora"))] + [f"method={name}", *own]
    given = [*options, "data.captions=class_text", "data.class_text=photo of zwx dog"]
    run = assemble(load(registry, overrides=given), registry, RunFolder(tmp_path / "out"))
    assert measure(run, uses_text_cache=not run.trains_text).step > 0


@pytest.mark.slow
def test_a_smaller_batch_saves_what_a_forecast_says(words, tmp_path):
    options = [*words, "train.batch_size=4"]
    run = assemble(load(REGISTRY, overrides=options), REGISTRY, RunFolder(tmp_path / "out"))
    assert saving(run, {"train.batch_size": "2"}) is None
    run.forecast = make_forecast(run)
    assert saving(run, {"train.batch_size": "2", "train.gradient_accumulation": "2"}) > 0
    assert run.options.train.batch_size == 4
    assert saving(run, {"data.resolution": "32"}) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "opened"),
    [
        (("data.cache.text=off",), ()),
        (("lora.text_encoder=true",), ()),
        ((), ("text_encoder",)),
        (("data.cache.text=off", "model.quantize=int8"), ("unet", "text_encoder")),
        (("method=dreambooth",), ("unet", "vae", "text_encoder")),
    ],
    ids=["cached not", "trained", "cached", "packed", "whole"],
)
def test_the_certificate_opens_what_is_not_in_memory_as_stored(words, tmp_path, more, opened):
    registry = Registry.from_plugins([sdtune_lora, sdtune_dreambooth])
    given = [*words[:-2], *([] if "method=dreambooth" in more else words[-2:]), *more, "output.certify=true"]
    run = assemble(load(registry, overrides=given), registry, RunFolder(tmp_path / "out"))
    phases = {phase.name: phase.parts for phase in make_forecast(run).phases}
    whole = open_tiny(next(Path(word[11:]) for word in words if word.startswith("model.path")), "sd1", parts=opened)
    size = sum(tensor.nbytes for tensor in (*whole.parameters(), *whole.buffers()))
    found = phases.get("reading the files back", {}).get("parts of the base model", 0)
    assert found == pytest.approx(size, rel=0.001)
