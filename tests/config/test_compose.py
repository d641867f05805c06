from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sdtune.config.compose import compose_schema, load, method_options
from sdtune.config.schema import CoreOptions
from sdtune.errors import ConfigError


def test_the_schema_has_the_section_of_the_method(registry):
    spec = registry.method("lora")
    options = compose_schema(spec)()
    assert isinstance(options, CoreOptions)
    assert method_options(options) == spec.config()


@pytest.mark.parametrize("name", ["train", "a-b"])
def test_a_method_whose_section_would_clash_is_refused(registry, name):
    with pytest.raises(ValueError, match="cannot be named"):
        compose_schema(replace(registry.method("lora"), name=name))


def test_without_a_file_everything_has_its_default(registry):
    loaded = load(registry)
    assert loaded.options == compose_schema(loaded.spec)()
    assert set(loaded.origins.values()) == {"default"}


def test_an_alias_becomes_the_name_of_the_method(load_text):
    loaded = load_text("method: ti\nwords: {token: a}")
    assert (loaded.options.method, loaded.spec.name, method_options(loaded.options).token) == ("words", "words", "a")


def test_the_last_word_names_the_method(load_text):
    assert load_text("method: nonsense", "method=words", "words.token=a").spec.name == "words"


@pytest.mark.parametrize(
    ("text", "value"), [("name: 007", "007"), ("name: no", "no"), ("name: 1e3", "1e3"), ("name:", None)]
)
def test_unquoted_text_is_text_where_text_is_wanted(load_text, text, value):
    assert load_text(f"output:\n  {text}\n").options.output.name == value


def test_sections_left_empty_have_their_defaults(load_text):
    assert load_text("train:\ndata:\n  buckets:\nlora:\n").options == load_text("").options


@pytest.mark.parametrize(("word", "value"), [("on", True), ("off", False), ("yes", True), ("true", True), ("0", False)])
def test_words_for_true_and_false_are_understood_where_one_is_wanted(load_text, word, value):
    assert load_text(f"data: {{flip: {word}}}").options.data.flip is value


def test_a_reference_takes_the_origin_of_the_place_it_stands(load_text):
    loaded = load_text("train: {steps: 5}\n\nsave:\n  every_steps: ${train.steps}\n")
    assert loaded.origins["save.every_steps"] == "run.yaml:4"


def test_loading_the_missing_file_is_an_error(registry):
    with pytest.raises(ConfigError, match=r"no such file \(none.yaml\)"):
        load(registry, Path("none.yaml"))


def test_loading_stays_light():
    code = "import sys, sdtune.config.compose; print({'torch', 'click', 'numpy', 'PIL', 'rich'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize(
    "text", ["method: words\nwords: {ranks: true}\nlora: {rank: 4}", "method: ti\nlora: {rank: 4}"]
)
def test_a_switch_means_another_method(load_text, text):
    loaded = load_text(text, "words.ranks=true")
    assert (loaded.spec.name, loaded.options.method, method_options(loaded.options).rank) == ("lora", "lora", 4)


def test_a_switch_that_is_off_means_nothing(load_text):
    assert load_text("method: words\nwords: {ranks: true, token: a}", "words.ranks=false").spec.name == "words"


def test_other_options_of_the_method_that_is_not_meant_are_refused(problems_of):
    (problem,) = problems_of("method: words\nwords: {ranks: true, token: a}")
    assert "section of another method; this run's method is 'lora'" in problem
