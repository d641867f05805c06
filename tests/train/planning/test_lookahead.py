"""What other programs will make of the files is told before the first step, and changes nothing."""

import json
import re

import pytest
import torch

import sdtune_bitfit
import sdtune_dreambooth
import sdtune_hypernetwork
import sdtune_lora
import sdtune_lycoris
import sdtune_textual_inversion
from sdtune.config.compose import load
from sdtune.errors import ConfigError
from sdtune.models.storage import StoredPart
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import command, resume_training, train
from sdtune.testing.tiny import tiny_model
from sdtune.train.assembly.assembling import assemble
from sdtune.train.planning import fitting
from sdtune.train.planning.lookahead import look_ahead
from sdtune.train.planning.plan import make_plan
from sdtune.train.saving.folder import RunFolder

BUNDLED = [sdtune_lora, sdtune_lycoris, sdtune_dreambooth, sdtune_textual_inversion, sdtune_hypernetwork, sdtune_bitfit]
REGISTRY = Registry.from_plugins(BUNDLED)
ALL = "A1111, Forge, ComfyUI, kohya (sd-scripts), diffusers"
SILENT = ("hypernetwork.layer_norm=true", "hypernetwork.activation=relu", "hypernetwork.activate_output=false")
# Method, options, the option that chooses, and what is told.
CONFLICTS = [
    ("lycoris", ("lycoris.algo=loha",), "consumers=[diffusers]", "not supported: it knows no algorithm but LoRA"),
    ("lycoris", ("lycoris.algo=loha",), "consumers=[kohya]", "not supported: it knows no algorithm but LoRA"),
    ("lycoris", ("lycoris.algo=ia3", "lycoris.save_as=native"), "comfyui_dir", "no algorithm knows these tensors"),
    ("lycoris", ("lycoris.weight_decompose=true",), "consumers=[kohya]", "it ignores such tensors"),
    ("lycoris", ("lycoris.norms=true",), "consumers=[kohya]", "it trains no layer of this name"),
    ("hypernetwork", SILENT, "comfyui_dir", "wrong by nature: behind a last LayerNorm"),
    ("hypernetwork", ("hypernetwork.activation=softplus",), "comfyui_dir", "it has no activation 'softplus'"),
    ("hypernetwork", (), "consumers=[kohya]", "its training scripts have no hypernetworks"),
    ("bitfit", (), "webui_dir", "not supported: it has no algorithm for diff_b"),
    ("dreambooth", ("model.prediction=v_prediction",), "comfyui_dir", "samples a model of v as one of noise"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ahead")
    write_images(folder / "images", 2, sizes=[(64, 64)], caption="a photo of a zwx toy")
    return folder


@pytest.fixture
def words(place, tmp_path):
    def words(method, *more, family="sd1"):
        path = place / family / "tiny.safetensors"
        if not path.exists():
            tiny_model(path, family)
        paths = (f"model.path={path}", f"data.path={place / 'images'}", f"output.dir={tmp_path / 'run'}")
        rest = ("data.resolution=64", "output.name=thing", "output.certify=true", "train.steps=2", "log.check=false")
        return (f"method={method}", *paths, *rest, "log.tensorboard=false", "log.forecast=false", *more)

    return words


@pytest.fixture
def ahead(words):
    """Give a run, and what is told of it before it starts."""

    def ahead(method, *more, family="sd1"):
        loaded = load(REGISTRY, overrides=words(method, *more, family=family))
        run = assemble(loaded, REGISTRY, RunFolder(loaded.options.output.dir))
        run.preflight = look_ahead(run, REGISTRY)
        return run

    return ahead


def test_where_all_is_well_one_line_tells_it(ahead, tmp_path):
    run = ahead("lora", "lora.text_encoder=false", "lora.rank=2")
    plan = make_plan(run)
    assert plan.facts["files"] == f"thing.safetensors (LoRA, fp16, 99 kB): {ALL}"
    assert "file" not in plan.facts
    assert run.preflight.notes() == []
    assert not (tmp_path / "run").exists()
    told = plan.to_dict()["files"]["files"]["thing.safetensors"]["programs"]
    assert told["a1111"]["used"] == told["a1111"]["total"] > 0
    assert {row["verdict"] for row in told.values()} == {"good"}


@pytest.mark.slow
@pytest.mark.parametrize(("method", "options", "chooses", "reason"), CONFLICTS)
def test_a_chosen_program_that_cannot_is_told_before_any_step(method, options, chooses, reason, words, tmp_path):
    folder = "" if "=" in chooses else f"={tmp_path / 'ui'}"
    (tmp_path / "ui").mkdir()
    with pytest.raises(ConfigError) as caught:
        train(BUNDLED, *words(method, *options, f"output.{chooses}{folder}"))
    (problem,) = caught.value.problems
    assert "will not use thing." in problem.message
    assert reason in problem.message
    assert problem.where == f"chosen by output.{chooses.partition('=')[0]}"
    assert "output.certify=false" in problem.hint
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "ui").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "dreambooth", "lora+textual_inversion"])
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_what_passes_the_certificate_is_foretold(method, family, ahead):
    files = ahead(method, *(("textual_inversion.token=zwx",) if "+" in method else ()), family=family).preflight
    reads_all = family != "sdxl" or method != "dreambooth"  # kohya's scripts transpose a matrix of each SDXL model
    assert files.facts()["files"].endswith(ALL if reads_all else "A1111, Forge, ComfyUI, diffusers")
    assert len(files.notes()) == (not reads_all)
    assert [file.name for file in files.files] == ["thing.safetensors", *(["zwx.pt"] if "+" in method else [])]


@pytest.mark.slow
def test_biases_of_fused_attention_are_foretold(ahead):
    (first, _) = ahead("lycoris", "lycoris.algo=full", "lycoris.text_encoder_lr=1e-4", family="sdxl").preflight.notes()
    assert first.startswith("A1111 will not use thing.safetensors as trained: in part: lora_te2_text_model_encoder")
    assert first.endswith("(biases of fused attention are not changed)")


@pytest.mark.slow
def test_what_training_may_or_may_not_bring_out_is_no_error(ahead):
    dora = ("lycoris.algo=boft", "lycoris.constraint=0.01", "lycoris.save_as=native", "lycoris.rescaled=true")
    files = ahead("lycoris", *dora, "output.consumers=[comfyui]").preflight
    assert files.notes() == [
        "thing.safetensors may act otherwise in ComfyUI: it knows no gains of a rotation, and takes alpha itself for "
        "its limit"
    ]
    files.check()


@pytest.mark.slow
def test_all_problems_are_told_at_once(ahead, tmp_path):
    chosen = ("output.consumers=[diffusers,kohya]", f"output.comfyui_dir={tmp_path}")
    files = ahead("hypernetwork", *SILENT, *chosen).preflight
    with pytest.raises(ConfigError) as caught:
        files.check()
    titles = ["diffusers", "kohya (sd-scripts)", "ComfyUI"]
    assert [problem.message.partition(" will")[0] for problem in caught.value.problems] == titles
    assert "or with activate_output=true" in caught.value.problems[2].hint


@pytest.mark.slow
def test_without_a_certificate_nothing_is_told(ahead):
    run = ahead("hypernetwork", "output.certify=false", "output.consumers=[diffusers]")
    assert run.preflight is None
    assert "hypernetwork" not in make_plan(run).notes
    assert make_plan(run).facts["file"].endswith("KiB in fp32")


@pytest.mark.slow
def test_a_method_that_cannot_export_yet_is_one_line_and_trains(words, monkeypatch):
    def export(self, model, run):
        if run.step == 0:
            raise ZeroDivisionError("no mean of nothing\nyet")
        return whole(self, model, run)

    whole = sdtune_bitfit_method().export
    monkeypatch.setattr(sdtune_bitfit_method(), "export", export)
    run = train(BUNDLED, *words("bitfit"))
    assert run.preflight.notes() == [
        "which programs will read the files cannot be told before training: no mean of nothing"
    ]
    assert run.folder.read_facts()["state"] == "done"


def sdtune_bitfit_method():
    from sdtune_bitfit.method import BitFit

    return BitFit


@pytest.mark.slow
def test_a_whole_model_is_not_read_for_it(ahead, monkeypatch):
    read, seen = StoredPart.read, []

    def watched(self, name, dtype=None):
        seen.append(len(self.shapes[name]))
        return read(self, name, dtype)

    run = ahead("dreambooth", "output.certify=false")
    run.options = run.options.model_copy(update={"output": run.options.output.model_copy(update={"certify": True})})
    monkeypatch.setattr(StoredPart, "read", watched)
    assert look_ahead(run, REGISTRY).facts()["files"].endswith(ALL)
    assert set(seen) == {1}


@pytest.mark.slow
def test_a_run_is_left_as_it_was(ahead):
    run = ahead("lora", "output.certify=false", "lora.rank=2")
    run.options = run.options.model_copy(update={"output": run.options.output.model_copy(update={"certify": True})})
    run.model.train()
    values = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    modes, state = [module.training for module in run.model.modules()], torch.get_rng_state()
    look_ahead(run, REGISTRY)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in run.model.modules()] == modes
    assert all(torch.equal(p, values[name]) for name, p in run.model.named_parameters())
    assert not run.model.is_hollow
    assert not run.model.is_exact


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "hypernetwork"])
def test_training_is_the_same_to_the_last_bit(method, words, tmp_path, monkeypatch):
    more = ("train.ema.decay=0.9", f"{method}.dropout={'[0,0.1,0]' if method == 'hypernetwork' else 0.1}")
    runs = []
    for name in ("with", "without"):
        runs.append(train(BUNDLED, *words(method, *more, f"output.dir={tmp_path / name}")))
        monkeypatch.setattr(fitting, "look_ahead", lambda run, registry: None)
    first, second = (run.parameters() for run in runs)
    assert all(torch.equal(parameter, second[name]) for name, parameter in first.items())
    assert [run.preflight is None for run in runs] == [False, True]


@pytest.mark.slow
def test_going_on_towards_a_program_that_cannot_is_refused(words, tmp_path):
    train(BUNDLED, *words("hypernetwork", "output.certify=false"))
    more = ("train.steps=3", "output.certify=true", "output.consumers=[diffusers]")
    with pytest.raises(ConfigError, match=r"diffusers will not use thing.pt as trained: not supported"):
        resume_training(BUNDLED, tmp_path / "run", *more, extend=True)


@pytest.mark.slow
def test_the_plan_is_shown_and_then_what_stands_against_it(words, capsys):
    given = [*words("lycoris", "lycoris.algo=loha", "output.consumers=[diffusers,a1111]")]
    flags = ["--steps", "2"]
    assert command(BUNDLED, "plan", *flags, *given, "--json") == 2
    out, err = capsys.readouterr()
    files = json.loads(out)["files"]
    assert files["chosen"] == {"diffusers": "output.consumers", "a1111": "output.consumers"}
    assert files["files"]["thing.safetensors"]["programs"]["a1111"]["verdict"] == "good"
    assert err.splitlines()[-1].startswith("error: diffusers will not use thing.safetensors as trained: not supported")
    assert command(BUNDLED, "train", *flags, *given, "--dry-run") == 2
    assert re.search(r"^files +thing.safetensors \(LoRA, fp16, 4 MB\): A1111$", capsys.readouterr().out, re.MULTILINE)
