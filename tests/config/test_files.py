from __future__ import annotations

from pathlib import Path

import pytest

from sdtune.config.compose import load
from sdtune.errors import ConfigError


@pytest.fixture
def load_files(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(**files: str):
        for name, text in files.items():
            path = Path(name.replace("__", "/") + ".yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return load(registry, Path("run.yaml"))

    return run


def test_a_file_wins_over_its_base_and_mappings_merge(load_files):
    loaded = load_files(base="train: {lr: 1, steps: 2}", run="_base_: base.yaml\ntrain: {lr: 3}")
    assert (loaded.options.train.lr, loaded.options.train.steps) == (3, 2)
    assert (loaded.origins["train.lr"], loaded.origins["train.steps"]) == ("run.yaml:2", "base.yaml:1")


def test_an_earlier_base_wins_over_a_later_one(load_files):
    loaded = load_files(a="train: {lr: 1}", b="train: {lr: 2, steps: 2}", run="_base_: [a.yaml, b.yaml]")
    assert (loaded.options.train.lr, loaded.options.train.steps) == (1, 2)


def test_lists_are_replaced_whole(load_files):
    loaded = load_files(base="preview: {prompts: [a, b]}", run="_base_: base.yaml\npreview: {prompts: [c]}")
    assert loaded.options.preview.prompts == ("c",)


@pytest.mark.parametrize("run", ["_base_: [a.yaml, b.yaml]", "_base_: a.yaml\ndata: ---"])
def test_dashes_delete_what_bases_below_set(load_files, run):
    loaded = load_files(a="train: {lr: ---}\ndata: {flip: ---}", b="train: {lr: 2}\ndata: {flip: true}", run=run)
    assert (loaded.options.train.lr, loaded.options.data.flip) == (1e-4, False)


def test_a_deleted_section_starts_anew(load_files):
    loaded = load_files(a="train: ---", b="train: {lr: 2, steps: 3}", run="_base_: [a.yaml, b.yaml]\ntrain: {steps: 1}")
    assert (loaded.options.train.lr, loaded.options.train.steps) == (1e-4, 1)


def test_a_section_left_empty_changes_nothing(load_files):
    assert load_files(base="train: {lr: 2}", run="_base_: base.yaml\ntrain:\n").options.train.lr == 2


def test_bases_are_relative_to_the_file_that_names_them(load_files):
    loaded = load_files(sub__a="_base_: b.yaml", sub__b="train: {lr: 2}", run="_base_: sub/a.yaml")
    assert loaded.origins["train.lr"] == f"{Path('sub/b.yaml')}:1"


def test_one_base_may_be_reached_by_two_ways(load_files):
    files = {"a": "_base_: c.yaml", "b": "_base_: c.yaml", "c": "train: {lr: 2}"}
    assert load_files(**files, run="_base_: [a.yaml, b.yaml]").options.train.lr == 2


def test_files_that_are_each_others_base_are_reported(load_files):
    with pytest.raises(ConfigError) as caught:
        load_files(a="_base_: run.yaml", run="method: lora\n_base_: a.yaml")
    assert str(caught.value) == "_base_: files are each other's base: run.yaml -> a.yaml -> run.yaml (a.yaml:1)"


def test_all_bad_bases_are_reported_together(load_files):
    with pytest.raises(ConfigError) as caught:
        load_files(a="x: [", run="_base_:\n- none.yaml\n- 5\n- a.yaml\n")
    assert [problem.where for problem in caught.value.problems] == ["run.yaml:2", "run.yaml:3", "a.yaml:2:1"]


def test_the_number_of_files_is_bounded(load_files):
    files = {f"f{i}": f"_base_: [f{i + 1}.yaml, f{i + 1}.yaml]" for i in range(8)}
    with pytest.raises(ConfigError, match="more than 64 files"):
        load_files(**files, f8="train: {}", run="_base_: f0.yaml")
