"""Going on with a run: what may change, what is told, and what is kept."""

import json
import shutil
from fnmatch import fnmatchcase

import pytest
import torch
from safetensors.torch import load_file

import sdtune_lora
import sdtune_lycoris
from sdtune.config.compose import load
from sdtune.config.describe import describe
from sdtune.config.dump import dump
from sdtune.errors import ConfigError, ModelError, StoppedError
from sdtune.plugins import Registry
from sdtune.testing.images import write_images
from sdtune.testing.runner import command, resume_training, train
from sdtune.testing.tiny import tiny_sd1
from sdtune.train.machine.environment import compare_environments, describe_environment, using_threads
from sdtune.train.method import ParamGroup
from sdtune.train.saving.aside import checkpoint_step, free_name, set_aside
from sdtune.train.saving.changes import KINDS, check_changes, describe_changes, find_changes, kind_of
from sdtune.train.saving.folder import RunFolder
from sdtune.train.saving.resume import Given, find_place, plan_resumption
from sdtune.train.update.extension import check_never_still, describe_jump, rate_curve, show_curves, shown_steps

REGISTRY = Registry.from_plugins([sdtune_lora])


def options(*words):
    return load(REGISTRY, overrides=["method=lora", "data.path=images", "train.steps=24", *words]).options


def changes(*words):
    return find_changes(options(), options(*words))


def test_equal_options_are_no_change():
    assert changes() == ()


def test_a_change_tells_the_old_and_the_new_value():
    assert [str(change) for change in changes("train.lr=1e-3", "preview.prompts=[a dog]")] == [
        "train.lr 0.0001 -> 0.001",
        "preview.prompts null -> [a dog]",
    ]


def test_another_way_to_the_same_folder_is_no_change():
    assert changes("data.path=./images") == ()


def test_items_of_lists_are_compared_one_by_one():
    assert [change.option for change in changes("train.rates=[{match: '*', scale: 0.5}]")] == [
        "train.rates.0.match",
        "train.rates.0.scale",
    ]


FREE = ["log.every_steps=5", "preview.steps=9", "save.keep=9", "output.comment=x", "data.cache.latents=off"]


@pytest.mark.parametrize("word", [*FREE, "data.path=other", "train.threads=2"])
def test_what_changes_no_number_needs_no_flag(word):
    check_changes(changes(word), allowed=())


def test_options_nobody_thought_of_are_taken_to_change_numbers():
    assert kind_of("future.option") == "number"


REFUSED = {
    "a rate": ("train.lr=1", "add --accept-changes"),
    "a rank": ("lora.rank=5", "add --accept-changes"),
    "more steps": ("train.steps=48", "add --extend"),
    "fewer steps": ("train.steps=12", "add --accept-changes"),
    "another optimizer": ("train.optimizer.name=sgd", "start a new run"),
    "an argument of it": ("train.optimizer.args={amsgrad: true}", "start a new run"),
    "another folder": ("output.dir=elsewhere", "start a new run"),
}


@pytest.mark.parametrize(("word", "hint"), REFUSED.values(), ids=REFUSED.keys())
def test_what_changes_numbers_is_refused_with_the_way_out(word, hint):
    with pytest.raises(ConfigError, match=hint):
        check_changes(changes(word), allowed=())


def test_all_refused_changes_are_told_in_one_line():
    with pytest.raises(ConfigError) as caught:
        check_changes(changes("train.lr=1", "train.batch_size=2", "train.steps=48"), allowed=())
    (problem,) = caught.value.problems
    assert all(name in problem.message for name in ("train.lr", "train.batch_size", "train.steps"))
    assert problem.hint.count("--extend") == problem.hint.count("--accept-changes") == 1


def test_each_flag_allows_its_own_kind_alone():
    check_changes(changes("train.steps=48"), allowed=("--extend",))
    check_changes(changes("train.lr=1", "train.steps=12"), allowed=("--accept-changes",))
    with pytest.raises(ConfigError):
        check_changes(changes("train.lr=1"), allowed=("--extend",))
    with pytest.raises(ConfigError):
        check_changes(changes("train.steps=48"), allowed=("--accept-changes",))


def test_only_what_changes_numbers_costs_the_name_of_one_run():
    quiet, loud = describe_changes(changes("train.lr=1", "log.every_steps=5"))
    assert (quiet, "no longer" in loud) == ("changed: log.every_steps 1 -> 5", True)


def test_every_listed_option_exists():
    schema = type(options())
    names = [".".join(doc.path).replace(".N.", ".0.") for doc in describe(schema)]
    stale = {pattern for pattern in KINDS if not any(fnmatchcase(name, pattern) for name in names)}
    assert stale == set()


def group(lr=1e-3, **more):
    return ParamGroup(name="unet", part="unet", params={"a": torch.nn.Parameter(torch.zeros(1))}, lr=lr, **more)


def curve(steps, name="cosine"):
    return rate_curve(group(), options(f"train.schedule.name={name}").train, steps)


def test_the_table_shows_both_curves_around_the_joint():
    table = show_curves(curve(24), 24, curve(48), 48, 24).splitlines()
    assert table[0].split() == ["learning", "rate", "24", "steps", "48", "steps"]
    (mark,) = [line for line in table if "goes on here" in line]
    assert mark.split()[:3] == ["step", "25", "0.0005"]
    assert table[-1].split()[:2] == ["step", "48"]


@pytest.mark.parametrize(("old", "new", "joint"), [(24, 48, 24), (1, 2, 1), (1000, 1001, 0), (48, 24, 12)])
def test_shown_steps_hold_both_ends_and_both_sides_of_the_joint(old, new, joint):
    shown = shown_steps(old, new, joint)
    assert shown == sorted(set(shown))
    assert {1, old, new, joint + 1} <= set(shown)
    assert len(shown) <= 14


def test_a_jump_is_told_and_a_smooth_joint_is_not():
    assert (
        describe_jump(curve(24), curve(48), 48, 24)
        == "the learning rate goes from 4.28e-06 in step 24 to 0.0005 in step 25"
    )
    assert describe_jump(curve(48), curve(48), 48, 24) == ""
    assert describe_jump(curve(24, "constant"), curve(48, "constant"), 48, 24) == ""


@pytest.mark.parametrize(
    "name", ["constant", "linear", "cosine", "rex", "one_cycle", "polynomial", "warmup_stable_decay"]
)
def test_no_rate_is_0_after_the_joint(name):
    train_options = options(f"train.schedule.name={name}", "train.schedule.warmup=10%").train
    check_never_still([group()], train_options, 24, 48)
    assert all(rate_curve(group(), train_options, 48)(step) > 0 for step in range(24, 48))


def test_a_longer_run_in_which_nothing_learns_is_refused():
    with pytest.raises(ConfigError, match="would be 0 in step 31 of 48"):
        check_never_still([group(lr="1e-3:30")], options().train, 24, 48)


def test_the_environment_names_what_differs():
    here = describe_environment(torch.device("cpu"))
    assert compare_environments(here, here) == []
    assert compare_environments({}, here) == []
    (line,) = compare_environments(here | {"threads": "7"}, here)
    assert line.startswith("threads was 7 and is ")
    assert line.endswith("train.threads=7 goes on to the last bit")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    with using_threads(None):
        assert torch.get_num_threads() == before
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("name", "step"), [("step-00000012", 12), ("step-12.tmp", -1), ("damaged-step-1", -1), ("x", -1)]
)
def test_the_step_of_a_checkpoint_is_in_its_name(tmp_path, name, step):
    assert checkpoint_step(tmp_path / name) == step


def test_a_name_that_is_taken_gets_a_number(tmp_path):
    for expected in ("a.yaml", "a-2.yaml", "a-3.yaml"):
        found = free_name(tmp_path / "a.yaml")
        found.touch()
        assert found.name == expected


def fill(path, steps):
    folder = RunFolder(path)
    for step in steps:
        (folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)
    folder.exports.mkdir()
    (folder.exports / "thing.safetensors").write_text("result")
    folder.metrics.write_text("lines")
    return folder


def test_later_checkpoints_are_moved_and_results_copied(tmp_path):
    folder = fill(tmp_path, (1, 2, 3))
    kept = set_aside(folder, 1)
    assert [path.name for path in sorted(folder.checkpoints.iterdir())] == ["step-00000001"]
    assert [path.name for path in sorted((kept / "checkpoints").iterdir())] == ["step-00000002", "step-00000003"]
    assert (kept / "exports" / "thing.safetensors").read_text() == "result"
    assert (folder.exports / "thing.safetensors").read_text() == "result"
    assert (kept / "metrics.jsonl").read_text() == "lines"


def test_nothing_is_kept_where_no_checkpoint_is_later(tmp_path):
    assert set_aside(fill(tmp_path, (1, 2)), 2) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "exports", "metrics.jsonl"]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    tiny_sd1(root / "model")
    write_images(root / "data", 2)

    def make(output, *more):
        return [
            "method=lora",
            f"model.path={root / 'model'}",
            f"data.path={root / 'data'}",
            f"data.cache.dir={root / 'cache'}",
            "data.resolution=64",
            "train.lr=1e-3",
            "lora.rank=2",
            "lora.text_encoder=false",
            "log.tensorboard=false",
            f"output.dir={output}",
            "output.name=thing",
            *more,
        ]

    return make


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    train([sdtune_lora], *words(folder, "train.steps=3", "save.every_steps=1", "save.keep=9"))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    """A finished run of three steps with three checkpoints."""
    return shutil.copytree(finished, tmp_path / "run")


def state(folder, step):
    return json.loads((folder / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text())["files"]


def facts(folder):
    return json.loads((folder / "run.json").read_text())


def losses(folder):
    return [json.loads(line)["loss"].hex() for line in (folder / "metrics.jsonl").read_text().splitlines()]


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def at(folder, step):
    return folder / "checkpoints" / f"step-{step:08d}"


def sdtune(*words):
    return command(REGISTRY, "train", *map(str, words))


@pytest.fixture
def folder(tmp_path):
    """What a finished run of three steps leaves, without its tensors."""
    loaded = load(REGISTRY, overrides=["method=lora", "data.path=images", "train.steps=3", "train.lr=1e-3"])
    path = tmp_path / "runs" / "mine"
    for step in (1, 2, 3):
        at(path, step).mkdir(parents=True)
    (path / "config.yaml").write_text(dump(loaded.options))
    (path / "run.json").write_text(json.dumps({"method": "lora", "state": "done", "steps": 3}))
    return path


def changed(folder, *words, **given):
    given = Given(overrides=words, **given)
    return [str(change) for change in plan_resumption(REGISTRY, str(folder), given).changes]


def test_a_place_is_a_run_or_one_of_its_checkpoints(folder, monkeypatch):
    assert find_place(str(folder)) == (RunFolder(folder), None)
    assert find_place(str(at(folder, 2))) == (RunFolder(folder), at(folder, 2))
    monkeypatch.chdir(folder.parents[1])
    assert find_place("mine/checkpoints/step-00000001")[1].is_dir()


def test_a_checkpoint_that_is_not_there_names_those_that_are(folder):
    with pytest.raises(ConfigError, match="step-00000009'; there are step-00000001, step-00000002, step-00000003"):
        find_place(str(at(folder, 9)))


def test_one_kind_of_length_takes_the_place_of_the_other(folder):
    found = changed(folder, "train.epochs=4")
    assert found == ["train.steps 3 -> null", "train.epochs null -> 4"]


def test_the_method_of_a_run_stays(folder):
    both = Registry.from_plugins([sdtune_lora, sdtune_lycoris])
    with pytest.raises(ConfigError, match="a run cannot change method lora -> lycoris"):
        plan_resumption(both, str(folder), Given(overrides=["method=lycoris"]))


def test_a_run_that_was_moved_may_be_named_where_it_is(folder):
    assert changed(folder, f"output.dir={folder}") == []


def test_options_of_a_file_are_compared_too(folder, tmp_path):
    (tmp_path / "own.yaml").write_text("train:\n  lr: 0.5\n  steps: 3\n")
    with pytest.raises(ConfigError, match=r"train\.lr 0\.001 -> 0\.5; leave"):
        changed(folder, file=tmp_path / "own.yaml")


def test_a_complete_run_refuses_options_that_come_too_late(folder, capsys):
    before = snapshot(folder)
    assert sdtune("--resume", folder, "--lr", "1", "--accept-changes") == 2
    assert "the run is complete, so these options come too late: train.lr 0.001 -> 1.0" in capsys.readouterr().err
    assert snapshot(folder) == before


def test_the_flags_of_a_runs_method_are_known(folder, capsys):
    assert sdtune("--resume", folder, "--rank", "5") == 2
    assert "lora.rank 16 -> 5" in capsys.readouterr().err


MISUSES = {
    "extend alone": (["--extend"], "--extend is for --resume"),
    "accept alone": (["--accept-changes"], "--accept-changes is for --resume"),
    "overwrite": (["--resume", "x", "--overwrite"], "--overwrite starts anew, --resume goes on"),
}


@pytest.mark.parametrize(("given", "message"), MISUSES.values(), ids=MISUSES.keys())
def test_flags_that_do_not_go_together_are_refused(capsys, given, message):
    assert sdtune(*given) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_dry_run_tells_how_it_would_go_on_and_writes_nothing(run, capsys):
    before = snapshot(run)
    assert sdtune("--resume", at(run, 1), "--lr", "1", "--rank", "2", "--accept-changes", "--dry-run") == 0
    said = capsys.readouterr().err
    assert "train.lr 0.001 -> 1.0; the result is no longer" in said
    assert "thing: going on after step 1 of 3" in said
    assert snapshot(run) == before


@pytest.mark.slow
def test_going_back_repeats_the_steps_and_keeps_what_was(run, finished):
    resume_training(REGISTRY, at(run, 1))
    kept = run / "before-going-back-to-00000001"
    assert [state(run, step) for step in (2, 3)] == [state(finished, step) for step in (2, 3)]
    assert [state(kept, step) for step in (2, 3)] == [state(finished, step) for step in (2, 3)]
    assert (kept / "exports" / "thing.safetensors").is_file()
    assert losses(kept) == losses(run) == losses(finished)
    (note,) = facts(run)["changes"]
    assert (note["step"], note["options"]) == (1, {})


@pytest.mark.slow
def test_going_back_twice_keeps_both(run):
    for _ in range(2):
        resume_training(REGISTRY, at(run, 2))
    names = {path.name for path in run.glob("before-*")}
    assert names == {"before-going-back-to-00000002", "before-going-back-to-00000002-2"}


@pytest.mark.slow
def test_a_constant_rate_makes_a_longer_run_equal_to_one_that_was_never_shorter(run, words, tmp_path):
    train(REGISTRY, *words(tmp_path / "long", "train.steps=5"))
    resume_training(REGISTRY, run, "train.steps=5", extend=True)
    assert losses(run) == losses(tmp_path / "long")
    assert state(run, 5) == state(tmp_path / "long", 5)
    assert (run / "exports-step-00000003" / "thing.safetensors").is_file()
    assert facts(run)["steps"] == 5


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "flag"), [(1, "--accept-changes"), (2, "--extend")])
def test_epochs_instead_of_steps_need_the_flag_of_their_length(run, epochs, flag):
    with pytest.raises(ConfigError, match=f"the run has 3 steps, and would have {2 * epochs}; add {flag}"):
        resume_training(REGISTRY, at(run, 1), f"train.epochs={epochs}")


@pytest.mark.slow
def test_the_history_of_options_is_kept(run):
    old = (run / "config.yaml").read_text()
    resume_training(REGISTRY, at(run, 1), "train.lr=1e-2", "log.every_steps=2", accept_changes=True)
    assert (run / "config-step-00000001.yaml").read_text() == old
    assert load(REGISTRY, run / "config.yaml").options.train.lr == 1e-2
    (note,) = facts(run)["changes"]
    assert note["options"] == {"train.lr": [1e-3, 1e-2], "log.every_steps": [1, 2]}
    assert note["allowed_by"] == ["--accept-changes"]
    assert facts(run)["state"] == "done"


@pytest.mark.slow
def test_the_command_of_the_start_goes_on_when_it_is_repeated(words, tmp_path):
    options = words(tmp_path / "run", "train.steps=2")
    with pytest.raises(StoppedError):
        train(REGISTRY, *options, stop_after=1)
    assert sdtune(*options, "output.certify=false", "--resume", tmp_path / "run") == 0


@pytest.mark.slow
def test_an_average_asked_for_later_begins_at_the_checkpoint(run):
    resume_training(REGISTRY, at(run, 2), "train.ema.decay=0.5", accept_changes=True)
    before, average, after = (
        load_file(at(run, step) / f"{name}.safetensors")
        for step, name in ((2, "parameters"), (3, "ema"), (3, "parameters"))
    )
    expected = {name: torch.lerp(before[name], after[name], 0.5) for name in before}
    torch.testing.assert_close(average, expected)


@pytest.mark.slow
def test_the_same_images_elsewhere_are_the_same_run(run, finished, words, tmp_path):
    write_images(tmp_path / "moved" / "data", 2)
    resume_training(REGISTRY, at(run, 2), f"data.path={tmp_path / 'moved' / 'data'}")
    assert state(run, 3) == state(finished, 3)


@pytest.mark.slow
def test_another_base_model_is_refused_whatever_is_accepted(run, tmp_path):
    tiny_sd1(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=r"base model .*: unet, text_encoder, vae; restore it.* -> .*other\)"):
        resume_training(REGISTRY, at(run, 2), f"model.path={tmp_path / 'other'}", accept_changes=True)


@pytest.mark.slow
def test_a_checkpoint_that_is_named_and_damaged_is_not_passed_over(run):
    (at(run, 2) / "state.json").write_text("{}")
    with pytest.raises(ModelError, match="does not match its hash"):
        resume_training(REGISTRY, at(run, 2))


@pytest.mark.slow
def test_a_run_cannot_end_before_it_goes_on(run):
    with pytest.raises(ConfigError, match="the run would end at step 2, and the checkpoint is at 2"):
        resume_training(REGISTRY, at(run, 2), "train.steps=2", accept_changes=True)


@pytest.mark.slow
def test_groups_of_other_names_do_not_fit(words, tmp_path):
    rates = "train.rates=[{match: 'unet.down_blocks.*', scale: 0.5}]"
    with pytest.raises(StoppedError):
        train(REGISTRY, *words(tmp_path / "run", "train.steps=2", rates), stop_after=1)
    with pytest.raises(ConfigError, match=r"the run cannot go on with train\.rates\.0\.match"):
        resume_training(REGISTRY, tmp_path / "run", "train.rates=[]", accept_changes=True)
